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


class _Loop:
    """The state of a run, and its checkpoints: model, optimizer, steps done, and the means of the epoch under way."""

    def __init__(self, model: keras.Model, split: cifar.Split, recipe: Recipe, run: Run):
        self.split, self.recipe = split, recipe
        self.optimizer = keras.optimizers.SGD(0.0, momentum=recipe.momentum, nesterov=True)
        self.optimizer.build(model.trainable_variables)
        self.done = tf.Variable(0, dtype=tf.int64)
        self.means = {"loss": keras.metrics.Mean(), "accuracy": keras.metrics.Mean()}
        self.step = make_step(model, self.optimizer, recipe, cifar.LAYOUTS[recipe.dataset])
        self.steps_an_epoch = len(split.images) // recipe.batch_size
        if not self.steps_an_epoch:
            raise TrainingError(f"batch_size {recipe.batch_size} is above the {len(split.images)} images; take a smaller one")
        self.steps = self.steps_an_epoch * recipe.epochs
        checkpoint = tf.train.Checkpoint(model=model, optimizer=self.optimizer, done=self.done, **self.means)
        self.manager = tf.train.CheckpointManager(checkpoint, str(run.folder / "checkpoints"), max_to_keep=2)
        if latest := self.manager.latest_checkpoint:
            self._restore(checkpoint, latest)

    @staticmethod
    def _restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
        try:
            checkpoint.restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, ValueError, AssertionError) as e:
            reason = " ".join(str(e).split())[:200]
            raise TrainingError(
                f"checkpoint {path} cannot be read ({reason}); delete it to go on from the one before"
            ) from None

    def save(self) -> None:
        try:
            self.manager.save(checkpoint_number=int(self.done))
        except (tf.errors.OpError, OSError) as e:
            reason = " ".join(str(e).split())[:200]
            kept = self.manager.latest_checkpoint or "none"
            raise TrainingError(f"no checkpoint could be written ({reason}); the last good one is {kept}") from None

    def batch(self, batch: int, order: np.ndarray) -> dict[str, float]:
        """One step; returns the means of the epoch so far."""
        now = int(self.done)
        if not batch:
            for mean in self.means.values():
                mean.reset_state()
        chosen = order[batch * self.recipe.batch_size : (batch + 1) * self.recipe.batch_size]
        rate = one_cycle(now, self.steps, self.recipe.peak_lr)
        self.optimizer.learning_rate.assign(rate)
        seed = tf.constant([self.recipe.seed, now], tf.int32)
        loss, accuracy = self.step(self.split.images[chosen], self.split.labels[chosen], seed)
        if not np.isfinite(float(loss)):
            kept = self.manager.latest_checkpoint or "none"
            raise TrainingError(
                f"the loss is {float(loss)} at step {now}; the last good checkpoint is {kept}; lower the peak_lr"
            )
        self.means["loss"].update_state(loss)
        self.means["accuracy"].update_state(accuracy)
        self.done.assign_add(1)
        return {**{name: float(mean.result()) for name, mean in self.means.items()}, "lr": rate}


def fit(
    model: keras.Model,
    split: cifar.Split,
    recipe: Recipe,
    run: Run,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    save_every: int = 200,
) -> None:
    """Trains `model` in place, from the run's last checkpoint if there is one; saves every `save_every` steps and at the end.

    The same recipe, data and machine give the same weights, however often the run was cut off, if op determinism is on.
    Callbacks are tf_keras's: epochs and batches begin and end with logs {loss, accuracy, lr}. Raises TrainingError on a
    loss that is not finite, and where a checkpoint can be neither read nor written.
    """
    loop = _Loop(model, split, recipe, run)
    per_epoch = loop.steps_an_epoch
    listeners = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=recipe.epochs, steps=per_epoch, verbose=0)
    listeners.on_train_begin()
    for epoch in range(int(loop.done) // per_epoch, recipe.epochs):
        order = epoch_order(recipe.seed, epoch, len(split.images))
        listeners.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        for batch in range(int(loop.done) - epoch * per_epoch, per_epoch):
            listeners.on_train_batch_begin(batch)
            logs = loop.batch(batch, order)
            if int(loop.done) % save_every == 0 or int(loop.done) == loop.steps:
                loop.save()
            listeners.on_train_batch_end(batch, logs)
        listeners.on_epoch_end(epoch, logs)
    listeners.on_train_end()


def restore(model: keras.Model, folder: pathlib.Path) -> int:
    """Gives a model the weights of a run's last checkpoint; returns the steps done. Raises TrainingError if there is none."""
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    if path is None:
        raise TrainingError(f"{folder} holds no checkpoint; train on with tools/train.py --resume")
    done = tf.Variable(0, dtype=tf.int64)
    try:
        tf.train.Checkpoint(model=model, done=done).restore(path).assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, ValueError, AssertionError) as e:
        raise TrainingError(
            f"checkpoint {path} is not of this network or is damaged ({' '.join(str(e).split())[:200]})"
        ) from None
    return int(done)


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many of the labels (n,) are among the k largest logits (n, classes) of their row."""
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return int((best == labels[:, None]).any(-1).sum())


def evaluate(predict: Callable, split: cifar.Split, layout: cifar.Layout, batch_size: int = 250) -> dict:
    """{'top1', 'top5' fractions of 1, 'n'} of predict(float32 (b, 32, 32, 3)) -> logits (b, classes), over every image of the split."""
    hits = np.zeros(2, int)
    for start in range(0, len(split.images), batch_size):
        part = slice(start, start + batch_size)
        logits = np.asarray(predict(augment.normalise(split.images[part], layout.mean, layout.std)))
        hits += [top_k_hits(logits, split.labels[part], k) for k in (1, 5)]
    count = len(split.images)
    return {"top1": hits[0].item() / count, "top5": hits[1].item() / count, "n": count}
