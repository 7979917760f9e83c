"""tools/export.py --packed and --unpack, and standalone_inference.py with a packed file."""

import os
import pathlib
import subprocess
import sys

import programs
import pytest
import tensorflow as tf

import standalone_inference as script
from frenzy import export

ROOT = pathlib.Path(__file__).resolve().parent.parent
MICROBOTNET = ROOT / "zoo" / "microbotnet_x032_cifar10"


def start(program, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return programs.start(program, *arguments, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--unpack=f"], "--unpack needs --output: a folder that is not there yet"),
        (["--unpack=f", "--packed=g"], "give one of --run_dir, --load_folder (with"),
        (["--load_folder=x", "--packed=f"], "x is no SavedModel: it holds no saved_model.pb; name one by --load_folder"),
    ],
    ids=["no output", "both", "no SavedModel"],
)
def test_bad_input_is_one_line(tmp_path, arguments, expected):
    done = start("tools/export.py", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"export.py: {expected}")
    assert list(tmp_path.iterdir()) == []


def test_standalone_refuses_what_is_no_packed_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"# text")
    with pytest.raises(script.UserError, match=r"--load_folder: .*f: it is no safetensors file"):
        script.unpacked(path, str(tmp_path / "out"))


def test_standalone_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "frenzy.packed", None)
    monkeypatch.delattr("frenzy.packed", raising=False)
    with pytest.raises(script.UserError, match=r"is a file, which takes the package frenzy .*tools/export\.py --unpack"):
        script.unpacked(tmp_path / "f", str(tmp_path / "out"))


@pytest.mark.slow
def test_there_and_back(tmp_path):
    """The committed MicroBotNet: packed, unpacked, classified alike; a packed file alone is refused in one line."""
    done = start("tools/export.py", f"--load_folder={MICROBOTNET}", "--packed=f", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"181 tensors, {os.path.getsize(tmp_path / 'f'):,} bytes" in done.stdout
    assert "468,500.0  storage under micronet\n" in done.stdout
    done = start("tools/export.py", "--unpack=f", "--output=back", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    images = tf.constant(export.fixed_images((32, 32, 3)))
    one, other = (
        tf.saved_model.load(str(folder)).signatures["serving_default"](images=images)["logits"].numpy()
        for folder in (MICROBOTNET, tmp_path / "back")
    )
    assert one.tobytes() == other.tobytes()
    picture = tmp_path / "picture.png"
    picture.write_bytes(tf.io.encode_png(tf.zeros((32, 32, 3), tf.uint8)).numpy())
    engine = ("--runtime", "tensorflow")
    shown = [
        start("standalone_inference.py", *engine, "--load_folder", each, "--images", picture, cwd=tmp_path).stdout
        for each in (MICROBOTNET, "f")
    ]
    assert shown[0] == shown[1]
    assert "%" in shown[0]
    alone = tmp_path / "alone.py"
    alone.write_bytes((ROOT / "standalone_inference.py").read_bytes())
    command = [sys.executable, alone, "--load_folder", "f", "--images", picture]  # where nothing of frenzy/ was imported
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "takes the package frenzy" in done.stderr
