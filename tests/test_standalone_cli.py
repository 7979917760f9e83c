"""standalone_inference.py on image files, its command line, and copied out of the repository."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from standalone_case import (
    WRONG,
    N,
    PixelReader,
    images_spec,
    save,
    with_card,
    write_card,
)

import standalone_inference as script

pytestmark = pytest.mark.usefixtures("no_network_and_own_cache")

# ---- images


def draw(path: pathlib.Path, red: int, size=(32, 32), mode="RGB") -> pathlib.Path:
    Image.new("RGB", size, (red, 0, 0)).convert(mode).save(path)
    return path


def test_images_get_their_five_likeliest_classes(call, model, tmp_path):
    small, large = draw(tmp_path / "small.png", 7, (8, 8)), draw(tmp_path / "large.png", 50, (64, 48), "RGBA")
    code, out, _ = call("--load_folder", model, "--json", "--images", small, large)
    first, second = json.loads(out)["images"]
    assert code == 0
    assert (first["file"], second["file"]) == (str(small), str(large))
    assert [top["class"] for top in first["top5"]] == [7, 6, 8, 5, 9]
    assert [top["name"] for top in second["top5"]] == [f"name {i}" for i in (50, 49, 51, 48, 52)]
    odds = np.exp(-np.abs(np.arange(100) - 7.0))
    np.testing.assert_allclose([top["probability"] for top in first["top5"]], np.sort(odds)[:-6:-1] / odds.sum(), rtol=1e-5)


def test_images_by_commas_by_repeated_flags_and_limited(call, model, tmp_path):
    files = [draw(tmp_path / f"{i}.png", i) for i in range(4)] + [draw(tmp_path / "a,b.png", 4)]
    flags = ["--images", f"{files[0]},{files[1]}", "--load_folder", model, "--images", files[4], files[2], "--json", files[3]]
    images = json.loads(call(*flags)[1])["images"]
    assert [image["top5"][0]["class"] for image in images] == [0, 1, 4, 2, 3]
    assert len(json.loads(call(*flags, "--limit", 2)[1])["images"]) == 2


def test_images_without_a_card_are_named_by_index_and_as_text(call, tmp_path):
    usual = script.DATASETS["cifar100"].normalisation
    reader = PixelReader(100, usual["mean"][0], usual["std"][0])
    folder = save(tmp_path / "m", reader.logits, images_spec(batch=4, height=16, width=16))
    code, out, _ = call("--load_folder", folder, "--images", draw(tmp_path / "a.png", 9))
    assert code == 0
    assert re.match(rf"{tmp_path}/a.png\n +46\.\d\d%  class 9\n +17\.\d\d%  class 8\n", out)
    assert out.count("\n") == 6


def test_images_that_cannot_be_read_are_refused(refused, model, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))
    text, good = tmp_path / "text.png", draw(tmp_path / "good.png", 1)
    text.write_text("no image")
    half = tmp_path / "half.png"
    half.write_bytes(good.read_bytes()[:60])
    for bad in (text, half, tmp_path / "nowhere.png"):
        said = f"--images: {bad} is no image that can be read .*; name PNG, JPEG or the like"
        refused("--load_folder", model, "--images", good, bad, match=said)


def test_images_where_the_names_do_not_fit_or_the_logits_are_no_numbers(refused, copied_model, tmp_path):
    image = draw(tmp_path / "a.png", 1)
    write_card(copied_model, class_names=["one", "two"])
    refused("--load_folder", copied_model, "--images", image, match="gives .* and its card has 2 class names")
    nan = with_card(tmp_path / "nan", lambda images: {"logits": tf.zeros((1, 100)) / (0 * images[:, 0, 0, :1])}, images_spec())
    refused("--load_folder", nan, "--images", image, match="gives .*nan")


# ---- command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "Unknown command line flag 'bogus'; --help lists the flags"),
        (["--batch_size", "0"], "flag --batch_size=0: 0 is not a positive integer"),
        (["--batch_size", "many"], "flag --batch_size=many: invalid literal"),
        (["--limit", "-3"], "flag --limit=-3: -3 is not a positive integer"),
        (["--dataset_name", "mnist"], "flag --dataset_name=mnist: value should be one of <cifar100|cifar10>"),
        (["--json=perhaps"], "flag --json=perhaps: .*"),
        (["--images"], "Missing value for flag --images"),
        (["SavedModel"], "unexpected argument 'SavedModel'; the folder goes after --load_folder, image files after --images"),
    ],
)
def test_bad_flags_are_refused(refused, arguments, said):
    refused(*arguments, match=said)


def test_help_lists_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    for flag in ("load_folder", "batch_size", "dataset_name", "data_dir", "images", "limit", "json"):
        assert f"--{flag}" in out


def test_an_unreadable_file_is_one_line(refused, model, data, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied", "test.bin")

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    refused("--load_folder", model, "--data_dir", data, match="PermissionError: .*Permission denied: 'test.bin'")


def test_an_interrupt_is_a_short_line_and_130(call, model, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "score", interrupted)
    code, out, err = call("--load_folder", model, "--data_dir", data)
    assert (code, out) == (130, "")
    assert err.endswith("standalone_inference: interrupted\n")


# ---- on its own


def test_what_it_imports_beyond_the_standard_library():
    """At its head NumPy and absl alone; engines, Pillow, and the reader of packed files where they are needed."""
    nodes = list(ast.walk(ast.parse(pathlib.Path(script.__file__).read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    found = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert found == {"tensorflow", "numpy", "absl", "PIL", "ai_edge_litert", "openvino", "frenzy"}
    head = [
        node
        for node in ast.parse(pathlib.Path(script.__file__).read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    at_once = {alias.name for node in head if isinstance(node, ast.Import) for alias in node.names}
    at_once |= {node.module for node in head if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in at_once} - sys.stdlib_module_names == {"numpy", "absl"}


@pytest.fixture
def alone(model, data, tmp_path):
    """Runs a copy of the file next to a SavedModel, beside packages that fail when imported."""
    folder = tmp_path / "alone"
    shutil.copytree(model, folder / "SavedModel")
    shutil.copy(script.__file__, folder)
    for package in ("frenzy", "PIL", "tf_keras"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise ModuleNotFoundError(f'{__name__} is not here')\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")}

    def run(*arguments):
        command = [sys.executable, "standalone_inference.py", *map(str, arguments)]
        environment["FRENZY_DATA"] = str(data)
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_a_copy_works_alone_without_any_flag_but_json(alone, data):
    done = alone("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["top1"] == (N - len(WRONG)) / N
    test_file = data / "cifar-100-binary" / "test.bin"
    assert done.stderr == f"note: {test_file} holds 23 images; the official test set has 10,000\n"


def test_errors_come_fast_and_as_one_line_on_its_own(alone, tmp_path):
    start = time.perf_counter()
    done = alone("--load_folder", tmp_path / "nowhere")
    seconds = time.perf_counter() - start
    assert done.returncode == 2
    assert (
        done.stderr
        == f"standalone_inference: --load_folder: '{tmp_path}/nowhere' is no folder; name a folder that holds saved_model.pb\n"
    )
    assert seconds < 3  # importing TensorFlow alone takes longer on a busy machine
    done = alone("--images", "a.png")
    assert done.returncode == 2
    assert (
        done.stderr
        == "standalone_inference: --images needs Pillow (ModuleNotFoundError: PIL is not here); pip install pillow\n"
    )
