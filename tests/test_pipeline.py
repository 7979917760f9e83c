"""The tools from a data folder to a scored SavedModel, each as its own process, as a user runs them."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import programs
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tool(*arguments, cwd=ROOT, **environment):
    return programs.start(*arguments, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A CIFAR-100 of 120 training and 30 test images, in the official binary layout."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar-100-binary").mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 120), ("test", 30)):
        random.integers(0, 20, (count, 3074)).astype(np.uint8).tofile(folder / "cifar-100-binary" / f"{name}.bin")
    names = "\n".join(f"thing_{i}" for i in range(100))
    (folder / "cifar-100-binary" / "fine_label_names.txt").write_text(names)
    return folder


TRAIN = ("tools/train.py", "--epochs=1", "--batch_size=20", "--save_every=1")


@pytest.mark.slow
def test_train_killed_resumed_exported_and_scored(tmp_path, data):
    run, model = tmp_path / "run", tmp_path / "model"
    command = [sys.executable, *TRAIN, f"--run_dir={run}", f"--data_dir={data}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = tool(*TRAIN, f"--run_dir={run}", FRENZY_DATA=data)
    assert again.returncode == 2
    assert "holds a run already; pass --resume" in again.stderr
    resumed = tool(*TRAIN, f"--run_dir={run}", "--resume", FRENZY_DATA=data)
    assert resumed.returncode == 0, resumed.stderr
    assert f"tools/export.py --run_dir {run}" in resumed.stdout

    exported = tool("tools/export.py", f"--run_dir={run}", f"--output={model}", FRENZY_DATA=data)
    assert exported.returncode == 0, exported.stderr
    card = json.loads((model / "assets.extra" / "model_card.json").read_text())
    assert (card["training"]["steps"], card["training"]["recipe"]["batch_size"], card["accuracy"]["n"]) == (6, 20, 30)
    assert card["class_names"][7] == "thing_7"

    checked = tool("tools/check.py", f"--load_folder={model}")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("ok ") == 4
    scored = tool("standalone_inference.py", f"--load_folder={model}", f"--data_dir={data}", "--json")
    assert scored.returncode == 0, scored.stderr
    found = json.loads(scored.stdout)
    assert (found["n"], found["top1"], found["top5"]) == (30, card["accuracy"]["top1"], card["accuracy"]["top5"])

    card["golden_logits"][0] += 1
    card["counts"]["frenzy"]["operations"] += 1
    (model / "assets.extra" / "model_card.json").write_text(json.dumps(card))
    wrong = tool("tools/check.py", f"--load_folder={model}")
    assert wrong.returncode == 1
    assert wrong.stdout.count("WRONG") == 2


BAD = {
    "no data": (["tools/train.py"], "no folder with cifar100: pass --data_dir, or set FRENZY_DATA"),
    "no such recipe": (["tools/train.py", "--recipe=best"], "best"),
    "a bad number": (["tools/train.py", "--epochs=0"], "recipe: epochs is 0; it must be 1 or more"),
    "no run": (["tools/export.py", "--run_dir=nowhere"], "nowhere holds no run"),
    "nothing to check": (["tools/check.py", "--load_folder=nowhere"], "no folder nowhere"),
    "no card": (["tools/check.py", "--load_folder=frenzy"], "is no model card to check against"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, monkeypatch):
    monkeypatch.delenv("FRENZY_DATA", raising=False)
    arguments, message = BAD[case]
    found = tool(*arguments)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
