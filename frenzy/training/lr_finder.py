"""The learning-rate range test: the loss while the rate grows from step to step (Smith, arXiv 1506.01186; fastai's limits)."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.data import pipeline
from frenzy.data.split import Split
from frenzy.training.recipe import Recipe
from frenzy.training.run import TrainingError
from frenzy.training.step import inner, make_optimizer, make_step, set_rates

SMOOTHING = 0.98  # of the running mean of losses
EXPLODED = 4.0  # times the best loss
SKIPPED = (10, 5)  # points at the beginning, where the mean is of a few batches, and at the end, that `steepest` leaves out


def range_test(
    model: keras.Model, split: Split, recipe: Recipe, low=1e-7, high=10.0, steps: int = 100
) -> tuple[list[float], list[float]]:
    """Rates and smoothed losses (nats) of steps from `low` to `high`, growing by a constant factor; it stops where the loss
    exceeds four times the best one or is no number. A teacher is not asked. The model's weights are as before afterwards.
    Raises TrainingError where the data has no whole batch."""
    if len(split.images) < recipe.batch_size:
        raise TrainingError(f"batch_size {recipe.batch_size} is above the {len(split.images)} images; take a smaller one")
    before = model.get_weights()
    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    step = tf.function(make_step(model, optimizer, recipe, split.mean, split.std))
    rates: list[float] = []
    losses: list[float] = []
    mean, done = 0.0, 0
    try:
        while done < steps:
            for images, labels in pipeline.batches(split, recipe.batch_size, recipe.seed, epoch=done):
                rate = low * (high / low) ** (done / (steps - 1))
                set_rates(optimizer, rate, recipe.momentum)
                loss = float(step(images, labels, tf.constant([recipe.seed, done], tf.int32))[0])
                mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
                done += 1
                smooth = mean / (1 - SMOOTHING**done)
                if not np.isfinite(loss) or smooth > EXPLODED * min([*losses, smooth]):
                    return rates, losses
                rates.append(rate)
                losses.append(smooth)
                if done == steps:
                    break
    finally:
        model.set_weights(before)
    return rates, losses


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the smoothed loss falls fastest by the logarithm of the rate, the first ten points and the last five
    aside. Raises TrainingError where it never falls."""
    first, last = SKIPPED
    rates, losses = rates[first : len(rates) - last], losses[first : len(losses) - last]
    if len(losses) < 2 or np.diff(losses).min() >= 0:
        raise TrainingError("the loss falls at no rate that was tried; look at the data and the recipe")
    return rates[int(np.gradient(losses, np.log(rates)).argmin())]
