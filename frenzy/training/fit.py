"""The training loop: deterministic, checkpointed by the step, resumable to the same weights, on one replica or many."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.data import pipeline
from frenzy.data.split import Split
from frenzy.training.evaluate import logits_of
from frenzy.training.recipe import Recipe
from frenzy.training.run import Checkpoints, Progress, Run, TrainingError
from frenzy.training.schedules import SCHEDULES
from frenzy.training.step import Teacher, inner, make_inputs, make_optimizer, make_step, set_rates


def rates_at(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and momentum of `step` (from 0) of `steps`."""
    schedule = SCHEDULES[recipe.schedule]
    low = recipe.momentum if recipe.low_momentum is None else recipe.low_momentum
    rate = schedule.rate(step, steps, recipe.epochs, recipe.peak_lr)
    return rate, schedule.momentum(step, steps, recipe.momentum, low)


def with_synchronized_norms(model: keras.Model) -> keras.Model:
    """The same network and weights with batch statistics over all replicas, as if the batch were in one place.

    Moving variances are those of n values, (n - 1) / n of what tf_keras's fused kernel keeps.
    """

    def renewed(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config |= {"synchronized": True}
        return layer.__class__.from_config(config)

    clone = keras.models.clone_model(model, clone_function=renewed)
    clone.set_weights(model.get_weights())
    return clone


class Lessons:
    """The teacher's logits for a step's inputs, kept in memory (float32) where the recipe's cycle will ask for them again."""

    def __init__(self, teacher: Teacher, recipe: Recipe, split: Split, steps_an_epoch: int):
        shape = (recipe.cycle * steps_an_epoch, recipe.batch_size, len(split.class_names))
        self.kept = np.full(shape, np.nan, np.float32)
        inputs_of = make_inputs(recipe, len(split.class_names), split.mean, split.std)
        self.ask = tf.function(lambda images, labels, seed: tf.cast(teacher(inputs_of(images, labels, seed)[0]), tf.float32))

    def __call__(self, step: int, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """float32 (n, classes) for step `step` of the cycle."""
        if step >= len(self.kept):
            return self.ask(images, labels, seed)
        if np.isnan(self.kept[step, 0, 0]):
            self.kept[step] = self.ask(images, labels, seed)
        return tf.constant(self.kept[step])


class Tally:
    """Steps done, the seconds that they took, and the sums of the epoch under way, as plain numbers: they cost a step no op.

    `kept` is what checkpoints hold of them, as of the last store(). The sums are float32, as those of keras.metrics.Mean.
    """

    def __init__(self) -> None:
        self.done, self.seconds, self.count = 0, 0.0, 0
        self.sums = {"loss": np.float32(0), "accuracy": np.float32(0)}
        self.means = {name: keras.metrics.Mean() for name in self.sums}
        self.kept = {"done": tf.Variable(0, dtype=tf.int64), "seconds": tf.Variable(0.0, dtype=tf.float64), **self.means}

    def add(self, seconds: float, fresh: bool, **values: float) -> None:
        """A step's values. `fresh`: the epoch's first."""
        self.done, self.seconds, self.count = self.done + 1, self.seconds + seconds, 1 if fresh else self.count + 1
        self.sums = {name: np.float32(value if fresh else self.sums[name] + value) for name, value in values.items()}

    def averages(self) -> dict[str, float]:
        """Of the epoch so far; 0 before its first step."""
        return {name: float(value / np.float32(max(self.count, 1))) for name, value in self.sums.items()}

    def store(self) -> None:
        self.kept["done"].assign(self.done)
        self.kept["seconds"].assign(self.seconds)
        for name, mean in self.means.items():
            mean.total.assign(self.sums[name])
            mean.count.assign(self.count)

    def recall(self) -> None:
        self.done, self.seconds = int(self.kept["done"]), float(self.kept["seconds"])
        self.sums = {name: mean.total.numpy() for name, mean in self.means.items()}
        self.count = int(self.means["loss"].count.numpy())  # int() takes no variable of mixed precision


class _Loop:
    """The state of a run, and its checkpoints: model, optimizer, steps done, and the means of the epoch under way."""

    def __init__(self, model: keras.Model, split: Split, recipe: Recipe, run: Run, teacher: Teacher | None, strategy):
        self.model, self.split, self.recipe, self.strategy = model, split, recipe, strategy
        self.steps_an_epoch = len(split.images) // recipe.batch_size
        if not self.steps_an_epoch:
            raise TrainingError(f"batch_size {recipe.batch_size} is above the {len(split.images)} images; take a smaller one")
        self.replicas = strategy.num_replicas_in_sync if strategy else 1
        if recipe.batch_size % (self.replicas * recipe.accumulate):
            raise TrainingError(
                f"batch_size {recipe.batch_size} does not divide into {self.replicas} replicas of {recipe.accumulate} parts; "
                "take a multiple"
            )
        if teacher and strategy:
            raise TrainingError("a teacher cannot be asked on many replicas; train with --strategy none, or without a teacher")
        self.steps = self.steps_an_epoch * recipe.epochs
        with strategy.scope() if strategy else contextlib.nullcontext():
            self.optimizer = make_optimizer(recipe)
            inner(self.optimizer).build(model.trainable_variables)
            core = make_step(model, self.optimizer, recipe, split.mean, split.std, self.replicas)
        self.step = tf.function(self._spread(core))
        self.lessons = Lessons(teacher, recipe, split, self.steps_an_epoch) if teacher else None
        self.tally = Tally()
        checkpoint = tf.train.Checkpoint(model=model, optimizer=self.optimizer, **self.tally.kept)
        self.checkpoints = Checkpoints(run, checkpoint)
        self.checkpoints.restore()
        self.tally.recall()

    @property
    def done(self) -> int:
        return self.tally.done

    def _spread(self, core: Callable) -> Callable:
        """The step over all replicas: means of what they return."""
        if self.strategy is None:
            return core
        strategy = self.strategy

        def everywhere(*batch):
            found = strategy.run(core, args=batch)
            return tuple(strategy.reduce(tf.distribute.ReduceOp.MEAN, each, axis=None) for each in found)

        return everywhere

    def batches(self, epoch: int, start: int) -> Iterator:
        """(images, labels) from batch `start` of an epoch on, spread over the replicas."""
        size, seed = self.recipe.batch_size, self.recipe.seed
        epoch = epoch % self.recipe.cycle if self.recipe.cycle else epoch
        if self.strategy is None:
            return iter(pipeline.batches(self.split, size, seed, epoch, start))

        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shards, shard = context.num_input_pipelines, context.input_pipeline_id
            own = pipeline.batches(self.split, size, seed, epoch, start, shards=shards, shard=shard)
            return own.rebatch(context.get_per_replica_batch_size(size))

        return iter(self.strategy.distribute_datasets_from_function(part))

    def one_step(self, images, labels, fresh: bool) -> dict[str, float]:
        """One update; returns the means of the epoch so far. `fresh`: the epoch's first."""
        now, begin = self.done, time.monotonic()
        rate, momentum = rates_at(self.recipe, now, self.steps)
        set_rates(self.optimizer, rate, momentum)
        same = now % (self.recipe.cycle * self.steps_an_epoch) if self.recipe.cycle else now
        seed = tf.constant([self.recipe.seed, same], tf.int32)
        taught = [self.lessons(same, images, labels, seed)] if self.lessons else []
        loss, accuracy = map(float, self.step(images, labels, seed, *taught))
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {now}; the last good checkpoint is {self.checkpoints.latest or 'none'}; "
                "lower the peak_lr"
            )
        self.tally.add(time.monotonic() - begin, fresh, loss=loss, accuracy=accuracy)
        if self.done == self.steps:
            self.use_averages()
        return self.logs()

    def logs(self) -> dict[str, float]:
        """The means of the epoch so far, and the rate of the step done last."""
        rate, _ = rates_at(self.recipe, max(self.done - 1, 0), self.steps)
        return {**self.tally.averages(), "lr": rate}

    def save(self) -> None:
        self.tally.store()
        self.checkpoints.save(self.done)

    def use_averages(self) -> None:
        """The averaged weights, where the recipe keeps them, in place of the last ones."""
        if self.recipe.ema:
            inner(self.optimizer).finalize_variable_values(self.model.trainable_variables)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model has the weights that it would end with."""
        kept = [v.numpy() for v in self.model.trainable_variables] if self.recipe.ema else []
        if self.done < self.steps:
            self.use_averages()
        try:
            yield
        finally:
            if self.done < self.steps:
                for variable, value in zip(self.model.trainable_variables, kept, strict=bool(kept)):
                    variable.assign(value)


def fit(
    model: keras.Model,
    split: Split,
    recipe: Recipe,
    run: Run,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    save_every: int = 200,
    teacher: Teacher | None = None,
    held: Split | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Progress:
    """Trains `model` in place, from the run's last checkpoint if there is one; saves every `save_every` steps and at the end.

    The same recipe, data and machine give the same weights, however often the run was cut off, if op determinism is on.
    Callbacks are tf_keras's: epochs and batches begin and end with logs {loss, accuracy, lr}; epochs end with images_per_second
    and, where `held` images are given, val_loss (cross-entropy in nats) and val_accuracy of these. `model` is built within
    `strategy`'s scope. Raises TrainingError on a loss that is not finite, and where a checkpoint can be neither read nor written.
    """
    loop = _Loop(model, split, recipe, run, teacher, strategy)
    per_epoch = loop.steps_an_epoch
    listeners = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=recipe.epochs, steps=per_epoch, verbose=0)
    predict = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    listeners.on_train_begin()
    for epoch in range(max(loop.done - 1, 0) // per_epoch, recipe.epochs):  # an epoch that was cut off at its end is told again
        first = loop.done - epoch * per_epoch
        listeners.on_epoch_begin(epoch)
        logs = loop.logs()
        begin = time.monotonic()
        for batch, (images, labels) in zip(range(first, per_epoch), loop.batches(epoch, first), strict=False):
            listeners.on_train_batch_begin(batch)
            logs = loop.one_step(images, labels, fresh=not batch)
            if loop.done % save_every == 0 or loop.done == loop.steps:
                loop.save()
            listeners.on_train_batch_end(batch, logs)
        if first < per_epoch:
            logs["images_per_second"] = (per_epoch - first) * recipe.batch_size / (time.monotonic() - begin)
        with loop.averaged():
            listeners.on_epoch_end(epoch, {**logs, **_validation(predict, held)})
    listeners.on_train_end()
    return Progress(loop.done, loop.tally.seconds)


def _validation(predict: Callable, held: Split | None) -> dict[str, float]:
    if held is None:
        return {}
    logits = logits_of(predict, held)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(held.labels, logits)
    return {"val_loss": float(tf.reduce_mean(losses)), "val_accuracy": float(np.mean(logits.argmax(-1) == held.labels))}
