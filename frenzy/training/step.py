"""One training step: augmentation, forward, backward, update. Pure TensorFlow with stateless randomness, so that XLA takes it."""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras as keras

from frenzy import stateless
from frenzy.data import augment
from frenzy.training.losses import cross_entropy, distillation
from frenzy.training.recipe import Recipe

Teacher = Callable[[tf.Tensor], tf.Tensor]  # normalised float32 images (n, h, w, 3) -> logits (n, classes)
Step = Callable[..., tuple[tf.Tensor, tf.Tensor]]

MIXUP, DROPOUT = 1, 2  # what a seed is folded with (dropout: 2, 3, … a part of the batch); augmentation takes it as it is


def is_kernel(variable: tf.Variable) -> bool:
    """True for the weights of convs and dense layers: what weight decay acts on."""
    return variable.name.split(":")[0].endswith("kernel")


def make_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    """SGD or Adam, whose learning rate, and momentum where it cycles, are variables that `set_rates` sets before every step."""
    averaging = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    if recipe.optimizer == "adam":
        return _scaled(keras.optimizers.Adam(0.0, beta_1=recipe.momentum, jit_compile=False, **averaging), recipe)
    sgd = keras.optimizers.SGD(0.0, momentum=recipe.momentum, nesterov=recipe.nesterov, jit_compile=False, **averaging)
    if recipe.low_momentum is not None:
        sgd.momentum = tf.Variable(recipe.momentum, trainable=False, dtype=tf.float32, name="momentum")
    return _scaled(sgd, recipe)


def _scaled(optimizer: keras.optimizers.Optimizer, recipe: Recipe) -> keras.optimizers.Optimizer:
    return keras.mixed_precision.LossScaleOptimizer(optimizer) if recipe.precision == "mixed_float16" else optimizer


def inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer itself, out of loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def set_rates(optimizer: keras.optimizers.Optimizer, rate, momentum) -> None:
    """The learning rate and, where the recipe cycles it, the momentum of the next step."""
    plain = inner(optimizer)
    plain.learning_rate.assign(rate)
    if isinstance(getattr(plain, "momentum", None), tf.Variable):
        plain.momentum.assign(momentum)


def _gradients(model, inputs, targets, teacher_logits, recipe: Recipe, optimizer, scale: float):
    """Gradients of one part of a batch, its loss, and its logits. The loss is multiplied by `scale` for the gradients alone."""
    with tf.GradientTape() as tape:
        logits = tf.cast(model(inputs, training=True), tf.float32)
        loss = cross_entropy(targets, logits)
        if teacher_logits is not None:
            taught = distillation(teacher_logits, logits, recipe.temperature)
            loss = (1 - recipe.distill_weight) * loss + recipe.distill_weight * taught
        if own := model.losses:  # asked for once: losses that are functions are computed whenever they are
            loss += tf.add_n([tf.cast(extra, tf.float32) for extra in own])
        aim = loss * scale if scale != 1 else loss
        if isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            aim = optimizer.get_scaled_loss(aim)
    gradients = tape.gradient(aim, model.trainable_variables)
    if isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        gradients = optimizer.get_unscaled_gradients(gradients)
    return gradients, loss, logits


def _split(tensor: tf.Tensor | None, parts: int) -> Sequence[tf.Tensor | None]:
    return [tensor] * parts if parts == 1 or tensor is None else tf.split(tensor, parts)


def make_inputs(recipe: Recipe, classes: int, mean: Sequence[float], std: Sequence[float]) -> Callable:
    """inputs_of(images uint8 (n, h, w, 3), labels int32 (n,), seed) -> inputs float32 (n, h, w, 3), targets (n, classes)."""

    def inputs_of(images, labels, seed):
        inputs = augment.augmented(images, seed, recipe.augmentation, mean, std)
        targets = augment.smooth_labels(tf.one_hot(labels, classes), recipe.label_smoothing)
        if recipe.mixup:
            inputs, targets = augment.mixup(inputs, targets, stateless.fold_in(seed, MIXUP), recipe.mixup)
        return inputs, targets

    return inputs_of


def make_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    mean: Sequence[float],
    std: Sequence[float],
    replicas: int = 1,
) -> Step:
    """step(images uint8 (n, h, w, 3), labels int32 (n,), seed int32 (2,)[, taught]) -> loss, share of correct answers.

    It updates the model. `taught` are the teacher's logits float32 (n, classes) for the inputs that this seed gives.

    Under tf.distribute it runs on every replica, with the replica's part of the batch: the loss is divided by `replicas`, the
    optimizer sums gradients, and every image is augmented as it would be in one process.
    """
    decay = [recipe.weight_decay / replicas if is_kernel(v) else 0.0 for v in model.trainable_variables]
    inputs_of = make_inputs(recipe, model.output_shape[-1], mean, std)
    iterations = inner(optimizer).iterations

    def step(images, labels, seed, taught=None):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group if replicas > 1 else 0
        with stateless.replica(index, replicas):
            inputs, targets = inputs_of(images, labels, seed)
        parts = recipe.accumulate
        batches = zip(_split(inputs, parts), _split(targets, parts), _split(taught, parts), strict=True)
        found = []
        for number, batch in enumerate(batches):
            own = stateless.fold_in(stateless.fold_in(seed, DROPOUT + number), iterations)
            with stateless.replica(index, replicas), stateless.layers_seed(own):
                found.append(_gradients(model, *batch, recipe, optimizer, 1 / (parts * replicas)))
        gradients = [tf.add_n(list(each)) if parts > 1 else each[0] for each in zip(*(f[0] for f in found), strict=True)]
        variables = model.trainable_variables
        gradients = [g + rate * v if rate else g for g, v, rate in zip(gradients, variables, decay, strict=True)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        loss = tf.add_n([f[1] for f in found]) / parts
        answers = tf.argmax(tf.concat([f[2] for f in found], 0), -1, tf.int32)
        return loss, tf.reduce_mean(tf.cast(answers == labels, tf.float32))

    return step
