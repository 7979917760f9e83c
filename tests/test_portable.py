"""The training step elsewhere: exported, run by tools/run_step.py on JAX, taken back, and equal to TensorFlow's own loop."""

import json
import pathlib
import shutil
import signal
import types

import numpy as np
import portable_case
import pytest
import tensorflow as tf
from portable_case import RECIPE, STEPS, Keep, export, network, run, state, stripes

from frenzy.training import portable
from frenzy.training.evaluate import logits_of
from frenzy.training.fit import fit, rates_at
from frenzy.training.recipe import Recipe
from frenzy.training.run import Run, restore
from tools import portable_cli, run_step

ROOT = pathlib.Path(run_step.__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    with portable_case.surroundings(tmp_path_factory.mktemp("jax")):
        yield


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
