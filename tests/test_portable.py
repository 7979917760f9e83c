"""The training step elsewhere: exported, run by tools/run_step.py on JAX, taken back, and equal to TensorFlow's own loop."""

import ast
import dataclasses
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import types

import jax
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from frenzy.data.split import hold_out, make
from frenzy.layers.dropout import Dropout
from frenzy.training import portable
from frenzy.training.evaluate import logits_of
from frenzy.training.fit import fit, rates_at
from frenzy.training.recipe import Recipe
from frenzy.training.run import Run, TrainingError, restore
from tools import portable_cli, run_step

ROOT = pathlib.Path(run_step.__file__).parents[1]
RECIPE = Recipe(
    network="small", dataset="made up", epochs=4, batch_size=16, peak_lr=0.05, low_momentum=0.8, mixup=0.4, label_smoothing=0.1,
    ema=0.8, seed=5,
)  # fmt: skip
STEPS = 20  # 4 epochs of 80 // 16


def stripes(count, seed):
    """Images whose class is the row of a bright stripe."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = random.integers(0, 80, (count, 12, 12, 3))
    images[np.arange(count), 3 * labels + 1] += 150
    return make(images.astype(np.uint8), labels, tuple("abcd"))


def network():
    """Batch normalisation, squeeze and excitation, a depthwise convolution, dropout."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, 1, "same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = x * layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = Dropout(0.3, name="dropout")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, name="classes")(x), name="small")


def export(folder, model, recipe=RECIPE, train=None, teacher=None, held=None, **options):
    train = train or stripes(80, 0)
    split = train if held is None else held[0]
    made = portable.portable(model, split, recipe, teacher)
    facts = {"recipe_name": "small", "command": "python tools/train.py", "data_sha256": split.sha256, "device": "this one"}
    splits = {"train": train, "test": stripes(30, 1)} | ({"held": held[1]} if held else {})
    plan = {**portable.plan(made, split, recipe), "facts": facts}
    portable_cli.write_step(folder, made, plan, splits, part_bytes=4000, with_data=True, **options)
    return folder


def run(step, out, *flags, data=None):
    return run_step.main([str(step), "--data", str(data or step / "data"), "--out", str(out), *map(str, flags)])


def state(out):
    return run_step.read_checkpoint(out)[2]


class Keep(keras.callbacks.Callback):
    """The means of the epoch so far, after every step."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((logs["loss"], logs["accuracy"]))


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """Op determinism, as tools/train.py has it; what JAX compiled is kept, so that every program is compiled once."""
    tf.config.experimental.enable_op_determinism()
    cache = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("jax")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in [*cache, "jax_enable_x64"]}
    for name, value in cache.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    return export(tmp_path_factory.mktemp("portable") / "step", network())


@pytest.fixture(scope="module")
def plan(step):
    return run_step.read_plan(step)


@pytest.fixture(scope="module")
def told():
    """The means of the epoch so far after every step of the run of `whole`."""
    return []


@pytest.fixture(scope="module")
def whole(step, told, tmp_path_factory):
    """The folder of a run that nothing cut off."""
    out = tmp_path_factory.mktemp("portable") / "whole"

    def reporter(plan):
        def note(done, loss, accuracy):
            batches = (done.step - 1) % plan.steps_an_epoch + 1
            told.append((done.sums["loss"] / batches, done.sums["accuracy"] / batches))

        return note

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_step, "Reporter", reporter)
        assert run(step, out, "--evaluate_every", 2, "--part_mb", 0.003) == 0
    return out


@pytest.fixture(scope="module")
def by_tensorflow(tmp_path_factory):
    """The model, and the means of the epoch so far after every step, of TensorFlow's own loop."""
    model, keep = network(), Keep()
    folder = tmp_path_factory.mktemp("portable") / "run"
    fit(model, stripes(80, 0), RECIPE, Run(folder, RECIPE, {"data_sha256": "x"}, resume=False), [keep])
    return model, keep.steps


def test_losses_equal_those_of_tensorflow(whole, told, by_tensorflow):
    ours, theirs = np.array(told), np.array(by_tensorflow[1])
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-5)
    np.testing.assert_allclose(ours[:, 1], theirs[:, 1], atol=1e-6)
    assert len(set(ours[:, 0])) == STEPS


def imported(out, folder):
    """A fresh network with the state of `out`, its run's folder made."""
    manifest, progress, values = run_step.read_checkpoint(out)
    model, recipe = network(), Recipe(**manifest["plan"]["recipe"])
    run_of_it = Run(folder, recipe, {"data_sha256": manifest["plan"]["data_sha256"]}, resume=False)
    found = portable.State(progress.step, progress.seconds, progress.sums, values)
    portable.save(model, recipe, run_of_it, found, manifest["plan"]["steps"])
    return model


def test_a_state_taken_back_gives_the_logits_of_tensorflows_loop(whole, by_tensorflow, tmp_path):
    split = stripes(30, 1)
    model = imported(whole, tmp_path / "run")
    ours, theirs = (logits_of(lambda x, m=m: m(x, training=False), split) for m in (model, by_tensorflow[0]))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    fresh = network()
    progress = restore(fresh, tmp_path / "run")
    assert progress.steps == STEPS
    assert progress.seconds > 0
    np.testing.assert_array_equal(logits_of(lambda x: fresh(x, training=False), split), ours)


def test_evaluation_is_of_the_averaged_weights(whole, tmp_path):
    split, row = stripes(30, 1), run_step.read_checkpoint(whole)[1].history[-1]
    model = imported(whole, tmp_path / "run")
    logits = logits_of(lambda x: model(x, training=False), split)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(split.labels, logits)
    assert row["test_accuracy"] == np.mean(logits.argmax(-1) == split.labels)
    assert row["test_loss"] == pytest.approx(float(tf.reduce_mean(losses)), rel=1e-5)


def test_tensorflow_goes_on_from_a_state(step, by_tensorflow, tmp_path):
    """7 steps elsewhere, the other 13 here."""
    assert run(step, tmp_path / "out", "--steps", 7) == 0
    imported(tmp_path / "out", tmp_path / "run")
    model, keep = network(), Keep()
    fit(
        model,
        stripes(80, 0),
        RECIPE,
        Run(tmp_path / "run", RECIPE, {"data_sha256": stripes(80, 0).sha256}, resume=True),
        [keep],
    )
    assert len(keep.steps) == STEPS - 7
    np.testing.assert_allclose(keep.steps, by_tensorflow[1][7:], rtol=1e-5)


def test_the_state_is_every_variable(plan):
    model = network()
    titles = plan.record["titles"]
    arrays = {each["name"]: each for each in plan.values["arrays"]}
    assert sorted(titles[name] for name in arrays if name.startswith("model/")) == sorted(v.name for v in model.variables)
    trained = [v.name for v in model.trainable_variables]
    others = [titles[name] for name in arrays if name.startswith("optimizer/")]
    expected = [f"{slot}/{name}" for slot in ("m", "average") for name in trained]
    assert sorted(others) == sorted([*expected, "iteration:0", "learning_rate:0", "momentum:0"])
    assert set(plan.step_writes) <= set(plan.step_reads) <= set(arrays)
    assert len(plan.step_writes) == len(model.variables) + len(expected) + 3
    kernel = next(arrays[name] for name in arrays if titles[name] == "depthwise/depthwise_kernel:0")
    assert (kernel["shape"], kernel["dtype"]) == ([3, 3, 8, 1], "float32")


def test_the_modules_are_portable(step):
    for name in ("step.stablehlo", "evaluation.stablehlo"):
        artifact = (step / name).read_bytes()
        assert artifact[:24].startswith(b"ML\xefR\rStableHLO_v1.0.0")
        assert str(ROOT).encode() not in artifact


def test_rates_are_those_of_the_schedule(plan):
    rates = plan.array("rates.npy")
    assert rates.shape == (STEPS, 2)
    np.testing.assert_array_equal(rates[6], np.float32(rates_at(RECIPE, 6, STEPS)))


def rows_of(out):
    history = run_step.read_checkpoint(out)[1].history
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in history]


def test_resumed_twice_ends_bit_for_bit_the_same(step, whole, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--evaluate_every", 2, "--resume")
    assert run(step, out, *flags, "--minutes", 0) == 0
    assert "0 minutes are over" in capsys.readouterr().out
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-00000000"]
    assert run(step, out, *flags, "--steps", 7, "--checkpoint_every", 2) == 0
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-00000007"]
    assert run(step, out, *flags) == 0
    assert "step 20 of 20" in capsys.readouterr().out
    ours, theirs = state(out), state(whole)
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert rows_of(out) == rows_of(whole)
    assert [row["epoch"] for row in rows_of(out)] == [1, 2, 3, 4]
    stretches = run_step.read_checkpoint(out)[1].stretches
    assert [(each["from_step"], each["to_step"]) for each in stretches] == [(0, 0), (0, 7), (7, 20)]
    assert run(step, out, "--resume") == 0


def test_an_interrupt_saves(step, tmp_path, monkeypatch):
    """The signal comes when the third loss arrives, with no other step in flight."""

    def reporter(plan):
        return lambda done, loss, accuracy: signal.raise_signal(signal.SIGINT) if done.step == 3 else None

    monkeypatch.setattr(run_step, "IN_FLIGHT", 0)
    monkeypatch.setattr(run_step, "Reporter", reporter)
    before = signal.getsignal(signal.SIGINT)
    assert run(step, tmp_path / "out") == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert run_step.read_checkpoint(tmp_path / "out")[1].step == 3


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(step, plan, whole, tmp_path):
    out = tmp_path / "out"
    progress, values = run_step.begin(plan, out, resume=False)
    train, judged = run_step.read_data(plan, step / "data")
    trainer = run_step.Trainer(plan, train, values)
    trainer.rates = np.where(np.arange(STEPS)[:, None] < 6, trainer.rates, np.float32(1e30))
    with pytest.raises(
        run_step.InputError,
        match=r"loss is (nan|inf|-inf) at step \d+; the last good checkpoint is .*-00000005; lower the peak_lr",
    ):
        run_step.Run(trainer, out, progress, run_step.Options(checkpoint_every=5), judged).go(lambda steps: "")
    assert run_step.read_checkpoint(out)[1].step == 5


def test_a_slow_device_has_few_steps_in_flight(step, plan, tmp_path, monkeypatch):
    """2 seconds of steps: 5 that took 10 seconds are 1, 5 that took 0.1 are 100, of which 16 are allowed."""
    trainer = types.SimpleNamespace(plan=plan)
    run_of_it = run_step.Run(trainer, tmp_path, run_step.Progress(), run_step.Options(), None)
    run_of_it.progress = run_step.Progress(step=5)
    for seconds, room in ((10, 1), (11, 0), (0.1, 16)):
        monkeypatch.setattr(run_step.time, "monotonic", lambda now=run_of_it.start + seconds: now)
        assert run_of_it.room() == room


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def refused(capsys, *arguments, **options):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments, **options)
    return capsys.readouterr().err


def test_a_damaged_part_is_named(step, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    parts = sorted(out.glob("checkpoint-*/state-*.bin"))
    assert len(parts) > 1
    assert all(path.stat().st_size == 3000 for path in parts[:-1])
    damage(parts[1])
    assert "state-001.bin is damaged: SHA-256" in refused(capsys, step, out, "--resume")
    parts[1].unlink()
    assert "state-001.bin cannot be read (No such file or directory)" in refused(capsys, step, out, "--resume")


def test_damaged_steps(step, tmp_path, capsys):
    copy = tmp_path / "step"
    shutil.copytree(step, copy)
    damage(copy / "values-000.bin")
    assert "values-000.bin is damaged" in refused(capsys, copy, tmp_path / "out")
    shutil.copyfile(step / "values-000.bin", copy / "values-000.bin")
    damage(copy / "step.stablehlo")
    assert "step.stablehlo is damaged" in refused(capsys, copy, tmp_path / "out")
    record = json.loads((step / "plan.json").read_text())
    del record["step_reads"]
    (copy / "plan.json").write_text(json.dumps(record))
    assert "plan.json has no step_reads" in refused(capsys, copy, tmp_path / "out")
    (copy / "plan.json").write_text("[]")
    assert "plan.json is not of format 1" in refused(capsys, copy, tmp_path / "out")
    (copy / "plan.json").write_text("{")
    assert "plan.json cannot be read" in refused(capsys, copy, tmp_path / "out")


def test_bad_input_is_one_line(step, whole, tmp_path, capsys):
    assert "holds no plan.json; name the folder" in refused(capsys, tmp_path, tmp_path / "out")
    assert "holds a run already; pass --resume" in refused(capsys, step, whole)
    assert "holds no train_images*.npy" in refused(capsys, step, tmp_path / "out", data=tmp_path)
    assert "-1: it must be 0.0 or more" in refused(capsys, step, tmp_path / "out", "--minutes", -1)
    assert refused(capsys, step, tmp_path / "out", "--steps", "many").count("\n") == 1
    portable_cli.write_split(tmp_path / "data", "train", stripes(80, 9), 10_000)
    assert "the training images have the SHA-256" in refused(capsys, step, tmp_path / "out", data=tmp_path / "data")
    portable_cli.write_split(tmp_path / "data", "train", stripes(80, 0), 10_000)
    told = refused(capsys, step, tmp_path / "out", "--evaluate_every", 1, data=tmp_path / "data")
    assert "leave --evaluate_every out" in told
    (tmp_path / "data" / "train_images-003.npy").write_bytes(b"no array")
    assert "a file of" in refused(capsys, step, tmp_path / "out", data=tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_a_state_of_another_step_is_refused(step, whole, tmp_path, capsys):
    copy = tmp_path / "step"
    shutil.copytree(step, copy)
    record = json.loads((copy / "plan.json").read_text())
    (copy / "plan.json").write_text(json.dumps({**record, "seed": 6}))
    assert "is of another step than" in refused(capsys, copy, whole, "--resume")


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


def test_held_out_images_are_those_of_hold_out(plan, tmp_path):
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


# ---- long runs


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
