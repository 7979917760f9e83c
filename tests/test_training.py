"""The training loop on a small network and made-up data: it learns, and a run that is cut off ends with the same weights."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import models
from frenzy.data.augment import smooth_labels
from frenzy.data.split import Split
from frenzy.models.frenzy import unpruned_rows
from frenzy.training.evaluate import evaluate, top_k_hits
from frenzy.training.fit import fit
from frenzy.training.losses import cross_entropy
from frenzy.training.recipe import Recipe, RecipeError
from frenzy.training.run import Run, TrainingError
from frenzy.training.schedules import one_cycle

RECIPE = Recipe(network="frenzy_small", dataset="cifar10", epochs=3, batch_size=16, peak_lr=0.05, seed=7)


def stripes(count=80):
    """Images whose class is the row of a bright stripe: learnable, and unlike CIFAR."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 10
    images = random.integers(0, 60, (count, 32, 32, 3))
    images[np.arange(count), 3 * labels + 2] += 180
    return Split(images.astype(np.uint8), labels.astype(np.int32), tuple("0123456789"), "made up")


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    tf.config.experimental.enable_op_determinism()


def fresh():
    keras.utils.set_random_seed(3)
    return models.frenzy.build(unpruned_rows((4, 8), 1), num_classes=10)


def run_in(folder, resume=False, recipe=RECIPE):
    return Run(folder, recipe, {"data_sha256": "made up"}, resume)


class StopAt(keras.callbacks.Callback):
    """A kill in the middle of an epoch."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Keep(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append({name: value for name, value in logs.items() if name != "images_per_second"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights and epoch logs of a run that nothing cut off."""
    model, keep = fresh(), Keep()
    fit(model, stripes(), RECIPE, run_in(tmp_path_factory.mktemp("runs") / "whole"), [keep])
    return model.get_weights(), keep.logs


def test_it_learns(whole):
    assert whole[1][-1]["loss"] < whole[1][0]["loss"]


@pytest.mark.parametrize("cut", [2, 5, 6, 14])
def test_a_run_cut_off_ends_with_the_same_weights(tmp_path, whole, cut):
    """15 steps with checkpoints after every third: cut before the first, on one, between two, before the end."""
    keep = Keep()
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), stripes(), RECIPE, run_in(tmp_path / "run"), [keep, StopAt(cut)], save_every=3)
    model = fresh()
    fit(model, stripes(), RECIPE, run_in(tmp_path / "run", resume=True), [keep], save_every=3)
    for ours, theirs in zip(model.get_weights(), whole[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert keep.logs[-1] == whole[1][-1]


def test_a_finished_run_stays_finished(tmp_path, whole):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    fit(first := fresh(), stripes(), recipe, run_in(tmp_path / "run", recipe=recipe))
    fit(second := fresh(), stripes(), recipe, run_in(tmp_path / "run", resume=True, recipe=recipe))
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_folder_is_not_overwritten(tmp_path):
    run_in(tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already; pass --resume"):
        run_in(tmp_path / "run")
    other = dataclasses.replace(RECIPE, peak_lr=0.5)
    with pytest.raises(TrainingError, match=r"recipe was .* resume with what it began with"):
        run_in(tmp_path / "run", resume=True, recipe=other)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json is no JSON"):
        run_in(tmp_path / "run", resume=True)


def test_the_record_repeats_the_run(tmp_path):
    run_in(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert Recipe(**record["recipe"]) == RECIPE
    assert record["data_sha256"] == "made up"


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    recipe = dataclasses.replace(RECIPE, peak_lr=1e30)
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step \d+; the last good checkpoint is .*; lower the peak_lr"
    ):
        fit(fresh(), stripes(), recipe, run_in(tmp_path / "run", recipe=recipe), save_every=1)


def test_a_damaged_checkpoint_is_named(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    fit(fresh(), stripes(), recipe, run_in(tmp_path / "run", recipe=recipe))
    for path in (tmp_path / "run" / "checkpoints").glob("*.index"):
        path.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint .*ckpt-5 cannot be read .*delete it"):
        fit(fresh(), stripes(), recipe, run_in(tmp_path / "run", resume=True, recipe=recipe))


def test_too_large_a_batch(tmp_path):
    recipe = dataclasses.replace(RECIPE, batch_size=81)
    with pytest.raises(TrainingError, match="batch_size 81 is above the 80 images"):
        fit(fresh(), stripes(), recipe, run_in(tmp_path / "run", recipe=recipe))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("peak_lr", -1.0),
        ("momentum", 1.0),
        ("label_smoothing", 1.5),
        ("precision", "float8"),
        ("seed", -1),
    ],
)
def test_recipes_validate_themselves(field, value):
    with pytest.raises(RecipeError, match=f"recipe: {field} is"):
        dataclasses.replace(RECIPE, **{field: value})


def test_one_cycle():
    rates = [one_cycle(step, 100, peak=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[30] == pytest.approx(0.1)
    assert rates[15] == pytest.approx((0.1 / 25 + 0.1) / 2)
    assert rates[100] == pytest.approx(0.1 / 25e4)
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_smoothing_spreads_the_target():
    logits = tf.constant([[2.0, 0.0, -1.0]])
    log_p = tf.nn.log_softmax(logits).numpy()[0]
    expected = -(0.9 * log_p[0] + 0.1 / 3 * log_p.sum())
    assert float(cross_entropy(smooth_labels(tf.one_hot([0], 3), 0.1), logits)) == pytest.approx(expected, rel=1e-6)


def test_every_image_is_evaluated():
    split = stripes(53)
    seen = []

    def perfect(images):
        labels = split.labels[sum(seen) : sum(seen) + len(images)]
        seen.append(len(images))
        return np.eye(10)[labels]

    assert evaluate(perfect, split, batch_size=25) == {"top1": 1.0, "top5": 1.0, "n": 53}
    assert seen == [25, 25, 3]


def test_top_k():
    logits = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    assert top_k_hits(logits, np.array([2, 0]), 1) == 1
    assert top_k_hits(logits, np.array([2, 0]), 2) == 2
