"""MicroBotNet: FD-MobileNetV3 small, a CIFAR-10 network of under a million multiply-accumulates for micro-robots.

Source: Liao's research notes, 2020, class FdMobileNetV3Imp2 (mode "small"); x1.00 and x0.32 are printed there layer by layer.
Built to compute what that code computes from the same weights:

- padding is symmetric, (k - 1) / 2 on each side, at stride 2 too; BN epsilon is 1e-5;
- squeeze-and-excite stands between the depthwise BN and its activation, without biases, and ends in a hard sigmoid;
- the width multiplier acts on every width, rounded to multiples of 8, save the last 1024 where it is at most 1;
- the stage behind the blocks multiplies by it a second time: 184 x 0.32 -> 56;
- global average pooling, then a 1x1 conv without BN, hard swish, dropout 0.2, a dense layer with bias.

    stem | block x 10 | conv1x1 BN hswish | pool | conv1x1 hswish | dropout | dense
    block:  x -> [conv1x1 BN act] -> depthwise BN [SE] act -> conv1x1 BN (+ x where shapes allow)
"""

import dataclasses

import tf_keras as keras

from frenzy.layers.dropout import Dropout
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.models.conv_bn import activate, batch_norm, classifier, conv, conv_bn, depthwise, divisible

SE_REDUCTION = 4


@dataclasses.dataclass(frozen=True)
class Block:
    """One inverted residual, at x1.00: kernel side, expanded and output widths, whether it has SE."""

    kernel: int
    expand: int
    out: int
    se: bool
    act: str
    stride: int = 1


STEM = 16
LAST = 1024

# The notes' `configs` of mode "small", edited by their author; 32x32 inputs.
SMALL = (
    Block(kernel=3, expand=72, out=24, se=False, act="relu", stride=2),  # 16x16 in
    Block(kernel=5, expand=96, out=40, se=True, act="hard_swish", stride=2),  # 8x8 in
    Block(kernel=5, expand=240, out=40, se=True, act="hard_swish"),  # 4x4 in
    Block(kernel=5, expand=120, out=48, se=True, act="hard_swish"),
    Block(kernel=5, expand=144, out=48, se=True, act="hard_swish"),
    Block(kernel=5, expand=288, out=96, se=True, act="hard_swish", stride=2),
    Block(kernel=5, expand=576, out=96, se=True, act="hard_swish"),  # 2x2 in
    Block(kernel=5, expand=576, out=96, se=True, act="hard_swish"),
    Block(kernel=5, expand=576, out=96, se=True, act="hard_swish"),
    Block(kernel=5, expand=576, out=96, se=True, act="hard_swish"),
)


def scaled(rows: tuple[Block, ...], multiplier: float) -> tuple[Block, ...]:
    """The rows at a width multiplier."""
    return tuple(
        dataclasses.replace(row, expand=divisible(row.expand * multiplier), out=divisible(row.out * multiplier)) for row in rows
    )


def _block(x, row: Block, name: str):
    shortcut = x
    if row.expand != x.shape[-1]:
        x = conv_bn(x, row.expand, 1, f"{name}_expand", act=row.act)
    x = batch_norm(depthwise(x, row.kernel, f"{name}_dw", row.stride), f"{name}_dw_bn")
    if row.se:
        x = SqueezeExcite(SE_REDUCTION, "hard_sigmoid", use_bias=False, name=f"{name}_se")(x)
    x = activate(x, row.act, f"{name}_dw_{row.act}")
    x = conv_bn(x, row.out, 1, f"{name}_project", act=None)
    if row.stride == 1 and shortcut.shape[-1] == row.out:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def build(
    multiplier: float = 1.0,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    dropout: float = 0.2,
    name: str = "microbotnet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, at a width multiplier. Raises ValueError where it is not positive."""
    if multiplier <= 0:
        raise ValueError(f"multiplier is {multiplier}; it must be above 0")
    rows = scaled(SMALL, multiplier)
    x = inputs = keras.Input(input_shape, name="images")
    x = conv_bn(x, divisible(STEM * multiplier), 3, "stem", stride=2, act="hard_swish")
    for number, row in enumerate(rows, 1):
        x = _block(x, row, f"block{number}")
    x = conv_bn(x, divisible(rows[-1].expand * multiplier), 1, "last_stage", act="hard_swish")
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = conv(x, divisible(LAST * multiplier) if multiplier > 1 else LAST, 1, "last_conv")
    x = activate(x, "hard_swish", "last_conv_hard_swish")
    x = keras.layers.Flatten(name="features")(x)
    x = Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, classifier(x, num_classes), name=name)
