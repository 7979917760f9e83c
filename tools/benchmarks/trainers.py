"""One network trained in three ways, each as a worker's main: the loop of frenzy.training.fit, tf_keras's Model.fit, PyTorch.

All of them train the recipe's network at the recipe's batch size and precision by SGD with its momentum and weight decay, and
take down loss and accuracy of every step. Images are random: time does not depend on what they show.
"""

import dataclasses
import pathlib
import tempfile
from typing import Any

from frenzy.training.recipe import Recipe
from tools.benchmarks.workers import Turns

CIFAR_IMAGES = 50_000
MOST_BYTES = 2**28  # of images
RATE = 0.01  # of the peers; ours follows the recipe's schedule


def endless(recipe: Recipe, augmented: bool) -> Recipe:
    """The recipe without a teacher or an end, and without augmentation if not `augmented`."""
    recipe = dataclasses.replace(recipe, epochs=10**6, teacher=None, cycle=0, hold_out=0, init_from=None)
    return recipe if augmented else dataclasses.replace(recipe, augmentation="none", mixup=0.0)


def made_up(recipe: Recipe):
    """A Split of random images as large and as many as the data set's, or as many as fit into MOST_BYTES."""
    import numpy as np

    from frenzy import data
    from frenzy.data.split import Split

    source = data.source(recipe.dataset)
    side = recipe.image_size or source.side
    count = max(min(CIFAR_IMAGES, MOST_BYTES // (side * side * 3)), recipe.batch_size)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = random.integers(0, source.classes, count).astype(np.int32)
    return Split(images, labels, tuple(map(str, range(source.classes))), "made up")


def set_up(recipe: Recipe, threads: int):
    """TensorFlow on so many threads, the images, and the recipe's network."""
    import tensorflow as tf
    import tf_keras as keras

    from tools import session

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(recipe.precision)
    split = made_up(recipe)
    model, _ = session.build_network(recipe, len(split.class_names), split.images.shape[1:])
    return split, model


def by_turns(turns: Turns):
    """A callback that waits for its turn before every step."""
    import tf_keras as keras

    class ByTurns(keras.callbacks.Callback):
        _supports_tf_logs = True  # spares Model.fit a conversion of the logs that nobody reads

        def on_train_batch_begin(self, batch, logs=None):
            turns.take()

    return ByTurns()


def ours(turns: Turns, recipe: Recipe, threads: int, method: str | None = None) -> None:
    """frenzy.training.fit.fit as tools/train.py calls it: deterministic ops, input pipeline, augmentation, step, bookkeeping.

    With a `method` of frenzy.compress, on the network that it wraps, as tools/compress.py does.
    """
    import tensorflow as tf

    from frenzy.training import fit, run

    tf.config.experimental.enable_op_determinism()
    split, model = set_up(recipe, threads)
    if method:
        model = wrapped(model, method, split)
    with tempfile.TemporaryDirectory() as folder:
        record = run.Run(pathlib.Path(folder) / "run", recipe, {"data_sha256": split.sha256}, resume=False)
        fit.fit(model, split, recipe, record, [by_turns(turns)], save_every=10**9)


def wrapped(model, method: str, split):
    """The network as the method trains it, with the ranges of its maps measured on a first batch where it has any."""
    from frenzy import compress
    from frenzy.data.augment import normalise

    options: dict[str, Any] = {"steps": 10**6} if "steps" in compress.METHODS[method].options else {}
    found = compress.compress(model, method, **options)
    if compress.METHODS[method].map_bits:
        compress.calibrate(found, [normalise(split.images[:64], split.mean, split.std)])
    return found


def keras_fit(turns: Turns, recipe: Recipe, threads: int) -> None:
    """Model.compile and Model.fit: of one batch that lies ready where the recipe augments nothing, else of a tf.data pipeline
    that shuffles, and maps the same functions over batches in as many threads as tf.data likes."""
    import tf_keras as keras

    split, model = set_up(recipe, threads)
    sgd = keras.optimizers.SGD(RATE, recipe.momentum, recipe.nesterov, weight_decay=recipe.weight_decay)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    model.compile(sgd, loss, metrics=["accuracy"])
    plain = dataclasses.replace(recipe, label_smoothing=0.0)
    augments = recipe.mixup or recipe.augmentation != "none"
    batches = augmented_batches(split, plain) if augments else same_batch(split, plain)
    steps = len(split.images) // recipe.batch_size
    model.fit(batches, epochs=recipe.epochs, steps_per_epoch=steps, verbose=0, callbacks=[by_turns(turns)])


def first_batch(split, recipe: Recipe):
    """The first images and their labels, as they are stored."""
    return split.images[: recipe.batch_size], split.labels[: recipe.batch_size]


def same_batch(split, recipe: Recipe):
    """The first batch, normalised, again and again."""
    import tensorflow as tf

    from frenzy.training.step import make_inputs

    inputs_of = make_inputs(recipe, len(split.class_names), split.mean, split.std)
    images, labels = map(tf.constant, first_batch(split, recipe))
    return tf.data.Dataset.from_tensors(inputs_of(images, labels, tf.zeros(2, tf.int32))).repeat()


def augmented_batches(split, recipe: Recipe):
    """Shuffled, batched, augmented by the recipe's own functions, prefetched; without end."""
    import tensorflow as tf

    from frenzy.training.step import make_inputs

    inputs_of = make_inputs(recipe, len(split.class_names), split.mean, split.std)

    def augment(number, batch):
        return inputs_of(*batch, tf.stack([0, tf.cast(number, tf.int32)]))

    images = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).shuffle(10_000).repeat()
    batches = images.batch(recipe.batch_size, drop_remainder=True).enumerate()
    return batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def pytorch(turns: Turns, recipe: Recipe, threads: int) -> None:
    """Eager PyTorch, channels last, of one batch that lies ready; bfloat16 by autocast. The network is rebuilt from the same
    arrays in float32, and its logits are compared before anything is measured."""
    import torch

    from tools.benchmarks import torch_peer

    torch.set_num_threads(threads)
    split, model = set_up(dataclasses.replace(recipe, precision="float32"), threads)
    same = same_batch(split, dataclasses.replace(recipe, augmentation="none", mixup=0.0))
    images = next(iter(same))[0].numpy()
    network = torch_peer.convert(model, images).train()
    inputs = torch_peer.pictures(images)
    labels = torch.from_numpy(first_batch(split, recipe)[1]).long()
    sgd = torch.optim.SGD(
        network.parameters(), RATE, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
    lower = torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "mixed_bfloat16")
    losses, shares = [], []
    while True:
        turns.take()
        sgd.zero_grad()
        with lower:
            logits = network(inputs)
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        shares.append((logits.argmax(1) == labels).float().mean().item())
