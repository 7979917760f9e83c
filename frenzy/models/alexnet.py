"""AlexNet, the one-tower form of Krizhevsky, arXiv 1404.5997, as torchvision and NetAdapt (arXiv 1804.03230) have it.

conv ReLU [max pool] x 5 | dropout dense ReLU | dropout dense ReLU | dense
"""

import dataclasses

import tf_keras as keras

from frenzy.layers.dropout import Dropout
from frenzy.models.conv_bn import activate, classifier, dense


@dataclasses.dataclass(frozen=True)
class Conv:
    """A conv with bias and ReLU; `pool` is the side of a max pooling of stride 2 behind it, None: none."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: int | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    convs: tuple[Conv, ...]
    dense: tuple[int, ...] = (4096, 4096)


IMAGENET = Rows(
    convs=(
        Conv(64, kernel=11, stride=4, padding=2, pool=3),  # 224x224 in
        Conv(192, kernel=5, padding=2, pool=3),  # 27x27 in
        Conv(384, kernel=3),  # 13x13 in
        Conv(256, kernel=3),
        Conv(256, kernel=3, pool=3),  # 6x6 out
    ),
)

# for 32x32 inputs: a 3x3 stem, pools of 2x2
CIFAR = Rows(
    convs=(
        Conv(64, kernel=3, stride=2, pool=2),  # 32x32 in
        Conv(192, kernel=5, padding=2, pool=2),  # 8x8 in
        Conv(384, kernel=3),  # 4x4 in
        Conv(256, kernel=3),
        Conv(256, kernel=3, pool=2),  # 2x2 out
    ),
)


def _conv(x, row: Conv, name: str):
    padding = "same"
    if row.stride > 1 or 2 * row.padding != row.kernel - 1:
        x, padding = keras.layers.ZeroPadding2D(row.padding, name=f"{name}_space")(x), "valid"
    x = keras.layers.Conv2D(
        row.width, row.kernel, row.stride, padding, kernel_initializer="he_normal", name=name
    )(x)  # fmt: skip
    x = activate(x, "relu", f"{name}_relu")
    return x if row.pool is None else keras.layers.MaxPooling2D(row.pool, 2, name=f"{name}_pool")(x)


def build(
    rows: Rows = IMAGENET,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.5,
    name: str = "alexnet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, from rows."""
    x = inputs = keras.Input(input_shape, name="images")
    for number, row in enumerate(rows.convs, 1):
        x = _conv(x, row, f"conv{number}")
    x = keras.layers.Flatten(name="features")(x)
    for number, width in enumerate(rows.dense, 1):
        x = Dropout(dropout, name=f"dropout{number}")(x)
        x = activate(dense(x, width, f"dense{number}"), "relu", f"dense{number}_relu")
    return keras.Model(inputs, classifier(x, num_classes), name=name)
