"""A teacher's answers in the loss: their gradient by hand, and that they are asked for once in a cycle."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from step_case import (
    LABELS,
    RANDOM,
    RECIPE,
    SPLIT,
    after,
    assert_moved_by,
    inputs,
    network,
    plain_gradients,
    recipe_of,
)

from frenzy.training import fit, losses, run


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    tf.config.experimental.enable_op_determinism()


LOGITS = tf.constant(RANDOM.normal(size=(5, 4)) * 3, tf.float32)
TAUGHT = tf.constant(RANDOM.normal(size=(5, 4)) * 3, tf.float32)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_s_gradient(temperature):
    """T (softmax(logits / T) - softmax(teacher / T)) / n, for a loss of T^2 KL."""
    with tf.GradientTape() as tape:
        tape.watch(LOGITS)
        loss = losses.distillation(TAUGHT, LOGITS, temperature)
    ours, theirs = (tf.nn.softmax(logits / temperature).numpy() for logits in (LOGITS, TAUGHT))
    np.testing.assert_allclose(tape.gradient(loss, LOGITS), temperature * (ours - theirs) / 5, atol=1e-6)
    expected = temperature**2 * (theirs * np.log(theirs / ours)).sum(-1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_distillation_by_finite_differences():
    step = 1e-2
    for place in np.ndindex(2, 4):
        change = np.zeros((5, 4), np.float32)
        change[place] = step
        up, down = (float(losses.distillation(TAUGHT, LOGITS + sign * change, 4.0)) for sign in (1, -1))
        ours, theirs = (tf.nn.softmax(logits / 4.0).numpy()[place] for logits in (LOGITS, TAUGHT))
        assert (up - down) / (2 * step) == pytest.approx(4 * (ours - theirs) / 5, abs=1e-4)


def test_a_student_that_says_the_same_has_nothing_to_learn():
    assert float(losses.distillation(TAUGHT, TAUGHT + 2.0, 4.0)) == pytest.approx(0, abs=1e-6)


def test_the_loss_is_shared_between_labels_and_teacher():
    taught = tf.constant(RANDOM.normal(size=(16, 4)), tf.float32)
    targets = tf.one_hot(LABELS[:16], 4)

    def loss_of(logits):
        return 0.3 * losses.cross_entropy(targets, logits) + 0.7 * losses.distillation(taught, logits, 2.0)

    recipe = recipe_of(distill_weight=0.7, temperature=2.0)
    model, loss, _ = after(recipe, taught=taught)
    assert_moved_by(model, plain_gradients(network(), loss_of))
    assert loss == pytest.approx(float(loss_of(network()(inputs()))), rel=1e-6)
    divided, _, _ = after(dataclasses.replace(recipe, accumulate=4), taught=taught)
    for ours, theirs in zip(divided.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


class Teacher:
    """Logits that follow from the inputs, and how often it was asked."""

    def __init__(self):
        self.asked = tf.Variable(0)
        self.weights = tf.constant(RANDOM.normal(size=(8 * 8 * 3, 4)) / 10, tf.float32)

    def __call__(self, images):
        self.asked.assign_add(1)
        return tf.reshape(images, (-1, 8 * 8 * 3)) @ self.weights


CYCLIC = dataclasses.replace(RECIPE, epochs=5, cycle=2, augmentation="crop_flip", peak_lr=0.02)
PER_EPOCH = 32 // 8


class StopAt(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def fitted(folder, recipe, teacher, resume=False, callbacks=()):
    model = network()
    fit.fit(model, SPLIT, recipe, run.Run(folder, recipe, {"data_sha256": ""}, resume), callbacks, 3, teacher)
    return model.get_weights()


def test_with_a_cycle_the_teacher_is_asked_in_its_first_epochs_alone(tmp_path):
    teacher, always = Teacher(), Teacher()
    always.weights = teacher.weights
    weights = fitted(tmp_path / "kept", CYCLIC, teacher)
    assert int(teacher.asked) == 2 * PER_EPOCH
    fitted(tmp_path / "always", dataclasses.replace(CYCLIC, cycle=0), always)
    assert int(always.asked) == 5 * PER_EPOCH
    # a run that was cut off in its fourth epoch asks again for what it lost, and ends the same
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "cut", CYCLIC, teacher, callbacks=[StopAt(14)])
    before = int(teacher.asked)
    again = fitted(tmp_path / "cut", CYCLIC, teacher, resume=True)
    assert int(teacher.asked) - before == 2 * PER_EPOCH
    for ours, theirs in zip(again, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_in_a_cycle_the_inputs_of_every_round_are_the_same(tmp_path, monkeypatch):
    seen = []
    one_step = fit._Loop.one_step

    def see(loop, images, labels, fresh):
        seen.append(images.numpy())
        return one_step(loop, images, labels, fresh)

    monkeypatch.setattr(fit._Loop, "one_step", see)
    fitted(tmp_path / "run", CYCLIC, Teacher())
    rounds = [np.stack(seen[i * 2 * PER_EPOCH : (i + 1) * 2 * PER_EPOCH]) for i in range(2)]
    np.testing.assert_array_equal(*rounds)
    assert np.any(seen[0] != seen[PER_EPOCH])
    np.testing.assert_array_equal(np.stack(seen[16:]), rounds[0][:PER_EPOCH])
