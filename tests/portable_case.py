"""What the tests of the portable step share: a small network and data, its export, its runner."""

import contextlib

import jax
import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.data.split import make
from frenzy.layers.dropout import Dropout
from frenzy.training import portable
from frenzy.training.recipe import Recipe
from tools import portable_cli, run_step

RECIPE = Recipe(
    network="small", dataset="made up", epochs=4, batch_size=16, peak_lr=0.05, low_momentum=0.8, mixup=0.4, label_smoothing=0.1,
    ema=0.8, seed=5,
)  # fmt: skip
STEPS = 20  # 4 epochs of 80 // 16


def stripes(count, seed):
    """Images whose class is the row of a bright stripe."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = random.integers(0, 80, (count, 12, 12, 3))
    images[np.arange(count), 3 * labels + 1] += 150
    return make(images.astype(np.uint8), labels, tuple("abcd"))


def network():
    """Batch normalisation, squeeze and excitation, a depthwise convolution, dropout."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, 1, "same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = x * layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = Dropout(0.3, name="dropout")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, name="classes")(x), name="small")


def export(folder, model, recipe=RECIPE, train=None, teacher=None, held=None, **options):
    train = train or stripes(80, 0)
    split = train if held is None else held[0]
    made = portable.portable(model, split, recipe, teacher)
    facts = {"recipe_name": "small", "command": "python tools/train.py", "data_sha256": split.sha256, "device": "this one"}
    splits = {"train": train, "test": stripes(30, 1)} | ({"held": held[1]} if held else {})
    plan = {**portable.plan(made, split, recipe), "facts": facts}
    portable_cli.write_step(folder, made, plan, splits, part_bytes=4000, with_data=True, **options)
    return folder


def run(step, out, *flags, data=None):
    return run_step.main([str(step), "--data", str(data or step / "data"), "--out", str(out), *map(str, flags)])


def state(out):
    return run_step.read_checkpoint(out)[2]


class Keep(keras.callbacks.Callback):
    """The means of the epoch so far, after every step."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((logs["loss"], logs["accuracy"]))


@contextlib.contextmanager
def surroundings(folder):
    """Op determinism, as tools/train.py has it; what JAX compiled is kept in the folder: every program is compiled once."""
    tf.config.experimental.enable_op_determinism()
    cache = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in [*cache, "jax_enable_x64"]}
    for name, value in cache.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
