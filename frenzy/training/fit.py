"""The training loop: deterministic, checkpointed by the step, resumable to the same weights."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.data import augment, cifar
from frenzy.training.recipe import Recipe
from frenzy.training.schedules import one_cycle


class TrainingError(Exception):
    """A run that cannot start, go on or be trusted; the message is one line with the next step."""


def smoothed_cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Mean cross-entropy in nats of int labels (n,) and logits (n, classes); `smoothing` of the target is spread evenly."""
    classes = logits.shape[-1]
    targets = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def is_kernel(variable: tf.Variable) -> bool:
    """True for the weights of convs and dense layers: what weight decay acts on."""
    return "kernel" in variable.name.rsplit("/", 1)[-1]


def make_step(model: keras.Model, optimizer: keras.optimizers.Optimizer, recipe: Recipe, layout: cifar.Layout) -> Callable:
    """step(images uint8 (n, h, w, 3), labels int32 (n,), seed int32 (2,)) -> loss, share of correct answers; updates the model."""
    variables = model.trainable_variables
    decay = [recipe.weight_decay if is_kernel(v) else 0.0 for v in variables]

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = augment.normalise(augment.crop_and_flip(images, seed), layout.mean, layout.std)
        with tf.GradientTape() as tape:
            logits = tf.cast(model(inputs, training=True), tf.float32)
            loss = smoothed_cross_entropy(labels, logits, recipe.label_smoothing)
        gradients = tape.gradient(loss, variables)
        gradients = [g + rate * v if rate else g for g, v, rate in zip(gradients, variables, decay, strict=True)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        correct = tf.equal(tf.argmax(logits, -1, tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(correct, tf.float32))

    return step


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` images that `epoch` (from 0) goes through."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Run:
    """A run's folder: `run.json` (what is needed to repeat it) and the last two checkpoints."""

    def __init__(self, folder: pathlib.Path, recipe: Recipe, facts: dict, resume: bool):
        self.folder = folder
        self.record = {"recipe": dataclasses.asdict(recipe), **facts}
        path = folder / "run.json"
        if path.exists() and not resume:
            raise TrainingError(f"{folder} holds a run already; pass --resume to go on with it, or another --run_dir")
        if path.exists():
            self._check_same(path)
            return
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.record, indent=2) + "\n")
        os.replace(temporary, path)

    def _check_same(self, path: pathlib.Path) -> None:
        try:
            before = json.loads(path.read_text())
        except ValueError:
            raise TrainingError(f"{path} is no JSON; the run cannot be resumed: start another with another --run_dir") from None
        for key in ("recipe", "data_sha256"):
            if before.get(key) != self.record[key]:
                raise TrainingError(
                    f"{path}: {key} was {before.get(key)} and is {self.record[key]}; resume with what it began with"
                )


def fit(
    model: keras.Model,
    split: cifar.Split,
    recipe: Recipe,
    run: Run,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    save_every: int = 200,
) -> None:
    """Trains `model` in place, from the run's last checkpoint if there is one; saves every `save_every` steps and at the end.

    The same recipe, data and machine give the same weights, however often the run was cut off. Callbacks are tf_keras's:
    epochs and batches begin and end with logs {loss, accuracy, lr}. Raises TrainingError on a loss that is not finite.
    """
    layout = cifar.LAYOUTS[recipe.dataset]
    optimizer = keras.optimizers.SGD(0.0, momentum=recipe.momentum, nesterov=True)
    optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)
    means = {"loss": keras.metrics.Mean(), "accuracy": keras.metrics.Mean()}
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, done=done, **means)
    manager = tf.train.CheckpointManager(checkpoint, str(run.folder / "checkpoints"), max_to_keep=2)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    step = make_step(model, optimizer, recipe, layout)
    steps_an_epoch = len(split.images) // recipe.batch_size
    if not steps_an_epoch:
        raise TrainingError(f"batch_size {recipe.batch_size} is above the {len(split.images)} images; take a smaller one")
    steps = steps_an_epoch * recipe.epochs
    listeners = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=recipe.epochs, steps=steps_an_epoch, verbose=0
    )
    listeners.on_train_begin()
    for epoch in range(int(done) // steps_an_epoch, recipe.epochs):
        order = epoch_order(recipe.seed, epoch, len(split.images))
        listeners.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        for batch in range(int(done) - epoch * steps_an_epoch, steps_an_epoch):
            now = int(done)
            listeners.on_train_batch_begin(batch)
            if not batch:
                for mean in means.values():
                    mean.reset_state()
            chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            rate = one_cycle(now, steps, recipe.peak_lr)
            optimizer.learning_rate.assign(rate)
            loss, accuracy = step(split.images[chosen], split.labels[chosen], tf.constant([recipe.seed, now], tf.int32))
            if not np.isfinite(float(loss)):
                kept = manager.latest_checkpoint or "none"
                raise TrainingError(
                    f"the loss is {float(loss)} at step {now}; the last good checkpoint is {kept}; lower --peak_lr"
                )
            means["loss"].update_state(loss)
            means["accuracy"].update_state(accuracy)
            done.assign_add(1)
            logs = {**{name: float(mean.result()) for name, mean in means.items()}, "lr": rate}
            if int(done) % save_every == 0 or int(done) == steps:
                manager.save(checkpoint_number=int(done))
            listeners.on_train_batch_end(batch, logs)
        listeners.on_epoch_end(epoch, logs)
    listeners.on_train_end()


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many of the labels (n,) are among the k largest logits (n, classes) of their row."""
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return int((best == labels[:, None]).any(-1).sum())


def evaluate(predict: Callable, split: cifar.Split, layout: cifar.Layout, batch_size: int = 250) -> dict:
    """{'top1', 'top5' in percent, 'n'} of predict(float32 (b, 32, 32, 3)) -> logits (b, classes), over every image of the split."""
    hits = np.zeros(2, int)
    for start in range(0, len(split.images), batch_size):
        part = slice(start, start + batch_size)
        logits = np.asarray(predict(augment.normalise(split.images[part], layout.mean, layout.std)))
        hits += [top_k_hits(logits, split.labels[part], k) for k in (1, 5)]
    count = len(split.images)
    return {"top1": 100 * hits[0].item() / count, "top5": 100 * hits[1].item() / count, "n": count}
