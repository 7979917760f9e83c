"""The pieces of the portable step on their own: values in parts, data in sheets, modules that every compiler takes."""

import ast
import dataclasses
import io
import json
import pathlib
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from portable_case import RECIPE, STEPS, network, stripes

from frenzy.data.split import hold_out
from frenzy.training import portable
from frenzy.training.run import Run, TrainingError
from tools import portable_cli, run_step


def test_a_state_of_another_network_is_refused(tmp_path):
    wrong = {"model/0": np.zeros((1, 2), np.float32)}
    with pytest.raises(TrainingError, match=r"model/0 is \(1, 2\) in the state and \(3, 3, 3, 8\) in small; "):
        portable.save(
            network(), RECIPE, Run(tmp_path / "run", RECIPE, {}, False), portable.State(1, 1.0, {"loss": 0.0}, wrong), STEPS
        )


@pytest.mark.parametrize("part_bytes", [5, 16, 1000])
def test_values_in_parts(tmp_path, part_bytes):
    values = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
        "c": np.array([True]),
        "d": np.zeros((0, 2)),
    }
    record = run_step.write_values(tmp_path, "state", values, part_bytes)
    assert len(record["parts"]) == -(-(24 + 8 + 1) // part_bytes)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= part_bytes
    back = run_step.read_values(tmp_path, json.loads(json.dumps(record)))
    assert list(back) == list(values)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("packed", [True, False])
def test_sheets_are_read(tmp_path, packed):
    """40 images in 4 sheets and 2 files: (10 * 12, 12) pixels each, numbered by their names."""
    split, files = stripes(40, 0), {}
    file = io.BytesIO()
    np.save(file, split.labels.astype(np.uint8))
    files["labels.npy"] = file.getvalue()
    for i in range(4):
        sheet = io.BytesIO()
        Image.fromarray(split.images[10 * i : 10 * i + 10].reshape(-1, 12, 3)).save(sheet, "WEBP", lossless=True)
        files[f"{i:03d}.webp"] = sheet.getvalue()
    if packed:
        for number, names in enumerate((["labels.npy", "000.webp", "001.webp"], ["002.webp", "003.webp"])):
            with tarfile.open(tmp_path / f"set-train-{number}.tar", "w") as tar:
                for name in names:
                    add(tar, name, files[name])
    else:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    images, labels = run_step.read_split(tmp_path, "train", [12, 12, 3])
    np.testing.assert_array_equal(images, split.images)
    np.testing.assert_array_equal(labels, split.labels)
    assert labels.dtype == np.int32
    assert run_step.read_split(tmp_path, "test", [12, 12, 3]) is None
    with pytest.raises(run_step.InputError, match="is damaged, or holds other than"):
        run_step.read_split(tmp_path, "train", [7, 12, 3])
    damaged = tmp_path / ("set-train-1.tar" if packed else "003.webp")
    damaged.write_bytes(damaged.read_bytes()[:700])
    with pytest.raises(run_step.InputError, match="is damaged, or holds other than"):
        run_step.read_split(tmp_path, "train", [12, 12, 3])


def test_held_out_images_are_those_of_hold_out(tmp_path):
    """The rows that the runner takes are those that hold_out takes, and it is these that are evaluated."""
    train = stripes(80, 0)
    kept, held = hold_out(train, 12)
    made = portable.Portable(b"", b"", {}, {}, (), (), (), np.zeros((0, 2), np.float32))
    plan = portable.plan(made, kept, dataclasses.replace(RECIPE, hold_out=12))
    portable_cli.write_step(tmp_path, made, plan, {"train": train, "test": stripes(30, 1), "held": held}, 4000, with_data=True)
    found, judged = run_step.read_data(run_step.read_plan(tmp_path), tmp_path / "data")
    np.testing.assert_array_equal(found[0], kept.images)
    assert judged[0] == "val"
    np.testing.assert_array_equal(judged[1][0], held.images)
    portable_cli.write_split(tmp_path / "fewer", "train", kept, 10**6)
    with pytest.raises(run_step.InputError, match="holds 68 training images, and the step is for 80"):
        run_step.read_data(run_step.read_plan(tmp_path), tmp_path / "fewer")


def test_what_only_some_compilers_know_is_refused():
    text = 'module @a_step.1 attributes {mhlo.is_dynamic = false} {\n  func.func @main(%arg0: tensor<2xf32> loc("/home/x.py":1:0)) {\n'
    text += "    %1 = mhlo.copy %arg0 : tensor<2xf32> loc(#loc2)\n"
    plain = "module @step {\n  func.func @main(%arg0: tensor<2xf32>) {\n"
    plain += "    %1 = stablehlo.reshape %arg0 : (tensor<2xf32>) -> tensor<2xf32>\n"
    sized = "    %2 = stablehlo.set_dimension_size %1, %c, dim = 0 : (tensor<2xf32>, tensor<i32>) -> "
    text += sized + "tensor<2xf32>\n"
    plain += "    %2 = stablehlo.reshape %1 : (tensor<2xf32>) -> tensor<2xf32>\n"
    assert portable.neutral(sized + "tensor<?xf32>") == sized + "tensor<?xf32>"
    assert portable.neutral('#loc2 = loc("/home/x.py":1:0)\n' + text) == plain
    text += "    %3 = stablehlo.custom_call @__onednn$conv(%1) : (tensor<2xf32>) -> tensor<2xf32>\n    %4 = mhlo.topk(%3)\n"
    with pytest.raises(
        TrainingError, match=r"the step holds mhlo\.topk, stablehlo\.custom_call @__onednn\$conv, which not every"
    ):
        portable.neutral(text)


def test_what_xla_cannot_take_is_refused():
    def by_python(x):
        return tf.numpy_function(lambda v: v, [x], tf.float32)

    with pytest.raises(TrainingError, match="XLA cannot compile the step"):
        portable.lower(by_python, [tf.TensorSpec((2,), tf.float32)], results=1)


def test_a_module_names_what_it_reads_and_writes():
    changed, kept = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])
    module = portable.lower(lambda x: changed.assign_add(x * kept), [tf.TensorSpec((2,), tf.float32)], results=1)
    assert {id(each) for each in module.reads} == {id(changed), id(kept)}
    assert [id(each) for each in module.writes] == [id(changed)]


def test_too_large_a_batch():
    recipe = dataclasses.replace(RECIPE, batch_size=81)
    with pytest.raises(TrainingError, match="batch_size 81 is above the 80 images"):
        portable.portable(network(), stripes(80, 0), recipe)


def test_the_runner_needs_jax_and_numpy_alone():
    tree = ast.parse(pathlib.Path(run_step.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"jax", "numpy", "PIL"}
