"""The portable step against TensorFlow's own loop: precisions, augmentations, a teacher; and the tools from end to end. Slow."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import portable_case
import pytest
import tensorflow as tf
import tf_keras as keras
from portable_case import RECIPE, Keep, export, network, stripes

from frenzy.data.split import hold_out
from frenzy.training.fit import fit
from frenzy.training.run import Run
from tools import run_step

ROOT = pathlib.Path(run_step.__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    with portable_case.surroundings(tmp_path_factory.mktemp("jax")):
        yield


def equal_to_fit(tmp_path, recipe, rtol, teacher=None, held=None, steps=None):
    """The losses of both loops, `steps` of them."""
    keras.mixed_precision.set_global_policy(recipe.precision)
    try:
        step, keep, told = export(tmp_path / "step", network(), recipe, teacher=teacher, held=held), Keep(), []
        run_of_it = Run(tmp_path / "run", recipe, {"data_sha256": "x"}, resume=False)
        fit(network(), held[0] if held else stripes(80, 0), recipe, run_of_it, [keep], teacher=teacher)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    plan = run_step.read_plan(step)
    train, judged = run_step.read_data(plan, step / "data")
    progress, values = run_step.begin(plan, tmp_path / "out", resume=False)
    trainer = run_step.Trainer(plan, train, values)

    def note(done, loss, accuracy):
        told.append(done.sums["loss"] / ((done.step - 1) % plan.steps_an_epoch + 1))

    run_step.Run(trainer, tmp_path / "out", progress, run_step.Options(seen=note), judged).go(lambda steps: "")
    np.testing.assert_allclose(told[:steps], [loss for loss, _ in keep.steps][:steps], rtol=rtol)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rtol"), [("mixed_bfloat16", 2e-2), ("mixed_float16", 5e-3)])
def test_mixed_precision(tmp_path, precision, rtol):
    trainer = equal_to_fit(tmp_path, dataclasses.replace(RECIPE, precision=precision), rtol)
    assert all(value.dtype == np.float32 for name, value in trainer.state().items() if value.dtype.kind == "f")


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["fastai", "mcdonnell"])
def test_augmentation_and_parts_of_a_batch(tmp_path, augmentation):
    """Hold-out, gradients of two parts, momentum that stays, another policy."""
    changes = {"augmentation": augmentation, "accumulate": 2, "low_momentum": None, "ema": 0.0, "hold_out": 12}
    equal_to_fit(tmp_path, dataclasses.replace(RECIPE, **changes), 1e-4, held=hold_out(stripes(80, 0), 12))


@pytest.mark.slow
def test_a_teacher_is_part_of_the_step(tmp_path):
    """Of a SavedModel, its weights at 16 bits, asked anew each time where TensorFlow's loop keeps what it said in a cycle."""
    from frenzy import export as saved

    master = network()
    saved.round_weights(master, "float16")
    saved.export(master, tmp_path / "master", saved.Preprocessing((0.5,) * 3, (0.25,) * 3), tuple("abcd"))
    loaded = tf.saved_model.load(str(tmp_path / "master"))
    serve = loaded.signatures["serving_default"]
    recipe = dataclasses.replace(RECIPE, cycle=2, distill_weight=0.9)
    trainer = equal_to_fit(tmp_path, recipe, 2e-5, teacher=lambda images, _owner=loaded: serve(images=images)["logits"])
    constants = [name for name in trainer.values if name.startswith("constant/")]
    assert len(constants) == len(master.variables)
    assert not set(constants) & set(trainer.state())


@pytest.mark.slow
def test_tools_from_export_to_saved_model(tmp_path):
    """tools/train.py --export_step, its run_step.py on its own, --import_state, tools/export.py."""

    def tool(*arguments, cwd=tmp_path):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    recipe = ("--recipe", "synthetic10", "--epochs", 1, "--batch_size", 500, "--network", "resnet_20", "--image_size", 16)
    train = ROOT / "tools" / "train.py"
    code, told, error = tool(train, *recipe, "--export_step", "step", "--export_data", "--part_mb", 2)
    assert (code, error) == (0, "")
    assert "python step/run_step.py step --data step/data --out OUT" in told
    assert max(path.stat().st_size for path in (tmp_path / "step").rglob("*") if path.is_file()) <= 2e6
    code, told, error = tool("step/run_step.py", "step", "--data", "step/data", "--out", "out", "--steps", 3)
    assert code == 0, error
    assert "3 steps are over" in told
    code, told, error = tool(train, "--import_state", "out", "--run_dir", "run")
    assert (code, error) == (0, "")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["device"].startswith("cpu (cpu, jax ")
    assert record["command"].endswith("--import_state OUT")
    assert [each["to_step"] for each in record["stretches"]] == [3]
    code, told, error = tool(train, "--import_state", "out", "--run_dir", "run")
    assert (code, error) == (2, "train.py: run holds a run already; name another --run_dir\n")
    code, told, error = tool(ROOT / "tools" / "export.py", "--run_dir", "run", "--output", "saved")
    assert code == 0, error
    card = json.loads((tmp_path / "saved" / "assets.extra" / "model_card.json").read_text())
    assert card["training"]["steps"] == 3
    code, _, error = tool(train, *recipe, "--export_step", "step")
    assert (code, error) == (2, "train.py: step is not empty; name a new folder by --export_step\n")
