"""One training step: its gradients by hand and by parts, what decays, and where it ends in one line."""

import re
import resource

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from step_case import IMAGES, LABELS, RECIPE, SEED, SPLIT, after, assert_moved_by, inputs, network, plain_gradients, recipe_of

from frenzy.training import fit, losses, run
from frenzy.training.recipe import RecipeError
from frenzy.training.step import inner, is_kernel, make_optimizer, make_step, set_rates


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    tf.config.experimental.enable_op_determinism()


# gradients


def test_a_plain_step_goes_down_the_gradient():
    targets = tf.one_hot(LABELS[:16], 4)
    gradients = plain_gradients(network(), lambda logits: losses.cross_entropy(targets, logits))
    model, loss, _ = after(RECIPE)
    assert_moved_by(model, gradients)
    assert loss == pytest.approx(float(losses.cross_entropy(targets, network()(inputs()))), rel=1e-6)


@pytest.mark.parametrize(
    ("parts", "fields"), [(2, {}), (8, {}), (4, {"label_smoothing": 0.1, "mixup": 0.4, "augmentation": "crop_flip"})]
)
def test_parts_of_a_batch_give_its_gradient(parts, fields):
    whole, loss, _ = after(recipe_of(**fields))
    divided, mean, _ = after(recipe_of(accumulate=parts, **fields))
    for ours, theirs in zip(divided.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert mean == pytest.approx(loss, rel=1e-5)


def test_the_share_of_correct_answers():
    model = network()
    step = make_step(model, make_optimizer(RECIPE), RECIPE, SPLIT.mean, SPLIT.std)
    answers = model(inputs()).numpy().argmax(-1)
    right = np.where(np.arange(16) < 12, answers, (answers + 1) % 4).astype(np.int32)
    assert float(step(IMAGES[:16], right, SEED)[1]) == 12 / 16


def test_the_network_s_own_losses_count():
    """A layer's regularizer of 0.01 w^2 adds 0.02 w to the gradient."""
    model = network()
    dense = model.get_layer("dense")
    dense.add_loss(lambda: 0.01 * tf.reduce_sum(dense.kernel**2))
    gradients = plain_gradients(network(), lambda logits: losses.cross_entropy(tf.one_hot(LABELS[:16], 4), logits))
    gradients["dense/kernel:0"] += 0.02 * network().get_layer("dense").kernel
    assert_moved_by(after(RECIPE, model)[0], gradients)


def test_dropout_follows_the_step():
    """The same seed and step drop the same; another step drops others."""
    first, second = (after(RECIPE, network(dropout=0.5), steps=2)[0].get_weights() for _ in range(2))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    once, twice = (after(RECIPE, network(dropout=0.5), steps=steps, rate=0.0)[1] for steps in (1, 2))
    assert once != twice


def test_xla_takes_the_step():
    recipe = recipe_of(augmentation="crop_flip", mixup=0.2, accumulate=2, weight_decay=1e-3)
    plain, loss, _ = after(recipe, network(dropout=0.5))
    compiled, same, _ = after(recipe, network(dropout=0.5), compiled=True)
    assert same == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(compiled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


# weight decay, averages, precision


def test_kernels_alone_decay():
    """With a decay of 0.5 and a rate of 0.1 kernels lose 0.5 * 0.1 of themselves besides what the gradient takes."""
    plain, decayed = (after(recipe_of(weight_decay=decay), network(norm=True))[0] for decay in (0.0, 0.5))
    begun = network(norm=True)
    kernels = 0
    for before, without, now in zip(
        begun.trainable_variables, plain.trainable_variables, decayed.trainable_variables, strict=True
    ):
        kernels += is_kernel(before)
        lost = 0.5 * 0.1 * before if is_kernel(before) else 0
        np.testing.assert_allclose(now, without - lost, atol=1e-6, err_msg=now.name)
    assert kernels == 3
    assert {v.name.split("/")[-1] for v in begun.trainable_variables if not is_kernel(v)} == {"bias:0", "gamma:0", "beta:0"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    """Two steps of one gradient g: v = -r g, then -r g (1 + m); Nesterov's adds m v - r g instead of v."""
    g, m, r = 2.0, 0.9, 0.1
    weight = tf.Variable(1.0)
    optimizer = make_optimizer(recipe_of(momentum=m, nesterov=nesterov))
    optimizer.build([weight])
    moved = []
    for _ in range(2):
        before = float(weight)
        set_rates(optimizer, r, m)
        optimizer.apply_gradients([(tf.constant(g), weight)])
        moved.append(float(weight) - before)
    velocities = [-r * g, -r * g * (1 + m)]
    assert moved == pytest.approx([m * v - r * g for v in velocities] if nesterov else velocities)


def test_momentum_is_what_the_recipe_cycles():
    optimizer = make_optimizer(recipe_of(momentum=0.95, low_momentum=0.85))
    weight = tf.Variable(0.0)
    optimizer.build([weight])
    for momentum in (0.95, 0.5):
        set_rates(optimizer, 1.0, momentum)
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
    assert float(weight) == pytest.approx(-1 - (1 + 0.5))


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_adam(beta):
    """Two steps of gradients 2, then -1, bias-corrected: by r m / (sqrt(v) + epsilon), Kingma and Ba, arXiv 1412.6980."""
    optimizer = make_optimizer(recipe_of(optimizer="adam", momentum=beta))
    weight = tf.Variable(1.0)
    optimizer.build([weight])
    mean = square = 0.0
    expected = 1.0
    for step, gradient in enumerate((2.0, -1.0), 1):
        set_rates(optimizer, 0.1, beta)
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
        mean, square = beta * mean + (1 - beta) * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= 0.1 * mean / (1 - beta**step) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-7)
        assert float(weight) == pytest.approx(expected, rel=1e-5)


def test_averages_replace_the_weights_at_the_end(tmp_path):
    """a = d a + (1 - d) w after each of 8 steps, from the weights at the beginning."""
    recipe = recipe_of(ema=0.75)
    model, seen = network(), []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_layer("conv").kernel.numpy())

    class Late(keras.callbacks.Callback):
        """What epochs are judged by: the averages; training goes on with the last weights."""

        def on_epoch_end(self, epoch, logs=None):
            self.average = self.model.get_layer("conv").kernel.numpy()

    fit.fit(plain := network(), SPLIT, RECIPE, run.Run(tmp_path / "plain", RECIPE, {"data_sha256": ""}, False), [see := See()])
    steps, average = list(seen), network().get_layer("conv").kernel.numpy()
    for weights in steps:
        average = 0.75 * average + 0.25 * weights
    fit.fit(model, SPLIT, recipe, run.Run(tmp_path / "run", recipe, {"data_sha256": ""}, False), [late := Late()])
    np.testing.assert_allclose(model.get_layer("conv").kernel, average, atol=1e-6)
    np.testing.assert_array_equal(late.average, model.get_layer("conv").kernel)
    np.testing.assert_array_equal(steps[-1], plain.get_layer("conv").kernel)
    assert np.abs(average - steps[-1]).max() > 1e-4
    assert see.model is plain


@pytest.fixture
def half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.filterwarnings("ignore:.*mixed_float16")
def test_half_precision_scales_its_loss(half_precision):
    recipe = recipe_of(precision="mixed_float16")
    model, loss, optimizer = after(recipe, steps=2)
    assert isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert float(optimizer.loss_scale) == 2**15
    assert model.get_layer("conv").compute_dtype == "float16"
    keras.mixed_precision.set_global_policy("float32")
    plain, same, _ = after(RECIPE, steps=2)
    assert loss == pytest.approx(same, rel=1e-2)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.filterwarnings("ignore:.*mixed_float16")
def test_gradients_that_overflow_are_passed_over(half_precision):
    """The update is left out and the scale halved."""
    model = network()
    recipe = recipe_of(precision="mixed_float16")
    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    before = model.get_weights()
    set_rates(optimizer, 0.1, 0.0)
    optimizer.apply_gradients([(tf.fill(v.shape, np.float32(np.inf)), v) for v in model.trainable_variables])
    assert float(optimizer.loss_scale) == 2**14
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# where it ends


def test_a_step_that_is_no_number_is_named_with_the_last_good_checkpoint(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.get_layer("dense").bias.assign([np.nan] * 4)

    folder = tmp_path / "run"
    record = run.Run(folder, RECIPE, {"data_sha256": ""}, False)
    said = rf"^the loss is nan at step 3; the last good checkpoint is {re.escape(str(folder))}/checkpoints/ckpt-2; lower the peak_lr$"
    with pytest.raises(run.TrainingError, match=said):
        fit.fit(network(), SPLIT, RECIPE, record, [Break()], save_every=2)
    model = network()
    assert run.restore(model, folder).steps == 2
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_stays(tmp_path):
    """A limit on the size of files stands for the disk; it sets in after the checkpoint of step 2."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    folder = tmp_path / "run"
    record = run.Run(folder, RECIPE, {"data_sha256": ""}, False)
    said = rf"^no checkpoint could be written \(.*\); the last good one is {re.escape(str(folder))}/checkpoints/ckpt-2$"
    try:
        with pytest.raises(run.TrainingError, match=said):
            fit.fit(network(), SPLIT, RECIPE, record, [Fill()], save_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.restore(network(), folder).steps == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"accumulate": 3}, "recipe: accumulate is 3; it must divide the batch_size of 8"),
        ({"schedule": "x"}, "recipe: schedule is 'x'; allowed: constant, "),
        ({"augmentation": "x"}, "recipe: augmentation is 'x'; allowed: crop_flip, "),
        ({"temperature": 0.0}, "recipe: temperature is 0.0; it must be above 0"),
        ({"distill_weight": 1.5}, "recipe: distill_weight is 1.5; it must be from 0 to 1"),
        ({"ema": 1.0}, "recipe: ema is 1.0; it must be at least 0 and below 1"),
        ({"cycle": -1}, "recipe: cycle is -1; it must be 0 or more"),
    ],
)
def test_recipes_that_cannot_be_run(fields, said):
    with pytest.raises(RecipeError, match=f"^{re.escape(said)}"):
        recipe_of(**fields)
