"""SqueezeNet: Iandola et al., arXiv 1602.07360, and its version 1.1 (the authors' repository, 2016).

    stem conv ReLU | fire modules with max pooling between | dropout | conv1x1 ReLU | global average pool
    fire:  x -> conv1x1 ReLU (squeeze) -> conv1x1 ReLU beside conv3x3 ReLU (expand), joined (+ bypass)

Figure 2 there has two forms with skip connections: simple bypass, x itself around the modules that keep the width, and
complex bypass, in addition a 1x1 conv around the others. Downsampling comes late by design; `delay` is for small inputs
and leaves out that many of the first stride-2 steps, the stem's stride among them.
"""

import dataclasses

import tf_keras as keras

from frenzy.layers.dropout import Dropout
from frenzy.models.conv_bn import activate, conv


@dataclasses.dataclass(frozen=True)
class Fire:
    """A fire module: width of the squeeze conv, and of each of the two expand convs. bypass: None, "identity" or "conv"."""

    squeeze: int
    expand: int
    bypass: str | None = None


@dataclasses.dataclass(frozen=True)
class Pool:
    """3x3 max pooling of stride 2; a last row or column that does not fill a window still makes one."""


@dataclasses.dataclass(frozen=True)
class Rows:
    stem_kernel: int
    stem: int
    body: tuple[Fire | Pool, ...]


# table 1 of the paper; 224x224 inputs
VERSION_1_0 = Rows(
    stem_kernel=7,
    stem=96,
    body=(
        Pool(),
        Fire(16, 64),  # 54x54 in
        Fire(16, 64),
        Fire(32, 128),
        Pool(),
        Fire(32, 128),  # 27x27 in
        Fire(48, 192),
        Fire(48, 192),
        Fire(64, 256),
        Pool(),
        Fire(64, 256),  # 13x13 in
    ),
)

# 2.4 times fewer operations: a smaller stem, pooling earlier
VERSION_1_1 = Rows(
    stem_kernel=3,
    stem=64,
    body=(
        Pool(),
        Fire(16, 64),  # 55x55 in
        Fire(16, 64),
        Pool(),
        Fire(32, 128),  # 27x27 in
        Fire(32, 128),
        Pool(),
        Fire(48, 192),  # 13x13 in
        Fire(48, 192),
        Fire(64, 256),
        Fire(64, 256),
    ),
)


def with_bypass(rows: Rows, convs: bool) -> Rows:
    """Skip connections around every fire module that keeps the width and, with `convs`, 1x1 convs around the others."""
    body: list[Fire | Pool] = []
    width = rows.stem
    for row in rows.body:
        if isinstance(row, Fire):
            bypass = "identity" if width == 2 * row.expand else "conv" if convs else None
            width = 2 * row.expand
            row = dataclasses.replace(row, bypass=bypass)
        body.append(row)
    return dataclasses.replace(rows, body=tuple(body))


def _conv_relu(x, width: int, kernel: int, name: str):
    return activate(conv(x, width, kernel, name, bias=True), "relu", f"{name}_relu")


def _fire(x, row: Fire, name: str):
    squeezed = _conv_relu(x, row.squeeze, 1, f"{name}_squeeze")
    expanded = [_conv_relu(squeezed, row.expand, kernel, f"{name}_expand{kernel}x{kernel}") for kernel in (1, 3)]
    y = keras.layers.Concatenate(name=f"{name}_join")(expanded)
    if row.bypass is None:
        return y
    shortcut = x if row.bypass == "identity" else conv(x, 2 * row.expand, 1, f"{name}_bypass", bias=True)
    return keras.layers.Add(name=f"{name}_add")([y, shortcut])


def _pool(x, name: str):
    padding = ["same" if side % 2 == 0 else "valid" for side in x.shape[1:3]]  # both: ceil((side - 3) / 2) + 1 windows
    if padding[0] != padding[1]:
        raise ValueError(f"{name}: {x.shape[1]} rows and {x.shape[2]} columns; both must be even, or both odd")
    return keras.layers.MaxPooling2D(3, 2, padding[0], name=name)(x)


def build(
    rows: Rows = VERSION_1_1,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    delay: int = 0,
    dropout: float = 0.5,
    name: str = "squeezenet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits of 0 or more, from rows.

    The stem is not padded, save where `delay` gives it stride 1. Raises ValueError where a pool meets unequal parities.
    """
    x = inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Conv2D(
        rows.stem, rows.stem_kernel, 1 if delay else 2, "same" if delay else "valid",
        kernel_initializer="he_normal", name="stem",
    )(x)  # fmt: skip
    x = activate(x, "relu", "stem_relu")
    left_out, pools, fires = delay - 1, 0, 1
    for row in rows.body:
        if isinstance(row, Fire):
            fires += 1
            x = _fire(x, row, f"fire{fires}")
        elif left_out > 0:
            left_out -= 1
        else:
            pools += 1
            x = _pool(x, f"pool{pools}")
    x = Dropout(dropout, name="dropout")(x)
    x = _conv_relu(x, num_classes, 1, "head")
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name=name)
