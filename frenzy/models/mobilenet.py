"""MobileNets: V1 (Howard et al., arXiv 1704.04861), V2 (Sandler et al., 1801.04381), V3 (Howard et al., 1905.02244),
and FD-MobileNet (Qin et al., 1802.03750), which downsamples 32 times in its first 12 layers.

    V1, FD:  stem | depthwise BN ReLU6 -> conv1x1 BN ReLU6 | ... | pool | dense
    V2, V3:  stem | [conv1x1 BN act] -> depthwise BN act [SE] -> conv1x1 BN (+ x) | ... | head

`delay` is for small inputs: that many of the first stride-2 steps, the stem's among them, have stride 1. Strides pad
(k - 1) / 2 on every side, so that weights of torchvision's V2 and V3 give its logits; TensorFlow's own pad SAME.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import tf_keras as keras

from frenzy.layers.dropout import Dropout
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.models.conv_bn import (
    TORCH,
    BatchNorm,
    activate,
    classifier,
    conv_bn,
    dense,
    depthwise_bn,
    divisible,
    global_pool,
)

TF_SLIM = BatchNorm(epsilon=1e-3, decay=0.99)


@dataclasses.dataclass(frozen=True)
class Separable:
    """A depthwise 3x3 and a 1x1 conv to `out`, `repeat` times, the first with the stride."""

    out: int
    stride: int = 1
    repeat: int = 1


# arXiv 1704.04861, table 1; its last depthwise conv is printed with stride 2, which its own sizes rule out.
V1 = (
    Separable(64),  # 112x112 in
    Separable(128, stride=2),
    Separable(128),
    Separable(256, stride=2),
    Separable(256),
    Separable(512, stride=2),
    Separable(512, repeat=5),
    Separable(1024, stride=2),
    Separable(1024),
)

# arXiv 1802.03750, table 2; at x0.25 it has the notes' 0.383 M parameters and 12 M multiply-accumulates.
FD = (
    Separable(64, stride=2),  # 112x112 in
    Separable(128, stride=2),
    Separable(128),
    Separable(256, stride=2),
    Separable(256),
    Separable(512, stride=2),
    Separable(512, repeat=4),
    Separable(1024),
)


def delayed(strides: Sequence[int], delay: int) -> Iterator[int]:
    """The strides with the first `delay` of those above 1 made 1."""
    for stride in strides:
        if stride > 1 and delay > 0:
            delay -= 1
            yield 1
        else:
            yield stride


def build_separable(
    rows: tuple[Separable, ...] = V1,
    multiplier: float = 1.0,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    delay: int = 0,
    name: str = "mobilenet_v1",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits: MobileNetV1 or FD-MobileNet from rows, at a width multiplier."""
    steps = [(row.out, 1 if i else row.stride) for row in rows for i in range(row.repeat)]
    stem_stride, *strides = delayed([2, *(stride for _, stride in steps)], delay)
    x = inputs = keras.Input(input_shape, name="images")
    x = conv_bn(x, divisible(32 * multiplier), 3, "stem", stem_stride, "relu6", TF_SLIM)
    for number, ((out, _), stride) in enumerate(zip(steps, strides, strict=True), 1):
        x = depthwise_bn(x, 3, f"block{number}_dw", stride, "relu6", TF_SLIM)
        x = conv_bn(x, divisible(out * multiplier), 1, f"block{number}_pw", 1, "relu6", TF_SLIM)
    return keras.Model(inputs, classifier(global_pool(x), num_classes), name=name)


@dataclasses.dataclass(frozen=True)
class Inverted:
    """One inverted residual: kernel side, expanded and output widths, whether it has SE."""

    kernel: int
    expand: int
    out: int
    se: bool
    act: str
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Network:
    """What an inverted-residual network is beside its blocks: the stem, the last conv, a hidden dense layer or none."""

    blocks: tuple[Inverted, ...]
    stem: int
    stem_act: str
    last: int
    hidden: int | None
    bn: BatchNorm
    dropout: float = 0.2


def _v2_blocks() -> Iterator[Inverted]:
    """arXiv 1801.04381, table 2: expansion, output width, repeats, stride of the first."""
    width = 32
    for expansion, out, repeat, stride in (
        (1, 16, 1, 1),  # 112x112 in
        (6, 24, 2, 2),
        (6, 32, 3, 2),  # 56x56 in
        (6, 64, 4, 2),  # 28x28 in
        (6, 96, 3, 1),  # 14x14 in
        (6, 160, 3, 2),
        (6, 320, 1, 1),  # 7x7 in
    ):
        for i in range(repeat):
            yield Inverted(3, expansion * width, out, se=False, act="relu6", stride=1 if i else stride)
            width = out


V2 = Network(tuple(_v2_blocks()), stem=32, stem_act="relu6", last=1280, hidden=None, bn=TORCH)

# arXiv 1905.02244, table 1
V3_LARGE = Network(
    stem=16,
    stem_act="hard_swish",
    blocks=(
        Inverted(3, 16, 16, se=False, act="relu"),  # 112x112 in
        Inverted(3, 64, 24, se=False, act="relu", stride=2),
        Inverted(3, 72, 24, se=False, act="relu"),  # 56x56 in
        Inverted(5, 72, 40, se=True, act="relu", stride=2),
        Inverted(5, 120, 40, se=True, act="relu"),  # 28x28 in
        Inverted(5, 120, 40, se=True, act="relu"),
        Inverted(3, 240, 80, se=False, act="hard_swish", stride=2),
        Inverted(3, 200, 80, se=False, act="hard_swish"),  # 14x14 in
        Inverted(3, 184, 80, se=False, act="hard_swish"),
        Inverted(3, 184, 80, se=False, act="hard_swish"),
        Inverted(3, 480, 112, se=True, act="hard_swish"),
        Inverted(3, 672, 112, se=True, act="hard_swish"),
        Inverted(5, 672, 160, se=True, act="hard_swish", stride=2),
        Inverted(5, 960, 160, se=True, act="hard_swish"),  # 7x7 in
        Inverted(5, 960, 160, se=True, act="hard_swish"),
    ),
    last=960,
    hidden=1280,
    bn=TF_SLIM,
)

# arXiv 1905.02244, table 2
V3_SMALL = Network(
    stem=16,
    stem_act="hard_swish",
    blocks=(
        Inverted(3, 16, 16, se=True, act="relu", stride=2),  # 112x112 in
        Inverted(3, 72, 24, se=False, act="relu", stride=2),
        Inverted(3, 88, 24, se=False, act="relu"),  # 28x28 in
        Inverted(5, 96, 40, se=True, act="hard_swish", stride=2),
        Inverted(5, 240, 40, se=True, act="hard_swish"),  # 14x14 in
        Inverted(5, 240, 40, se=True, act="hard_swish"),
        Inverted(5, 120, 48, se=True, act="hard_swish"),
        Inverted(5, 144, 48, se=True, act="hard_swish"),
        Inverted(5, 288, 96, se=True, act="hard_swish", stride=2),
        Inverted(5, 576, 96, se=True, act="hard_swish"),  # 7x7 in
        Inverted(5, 576, 96, se=True, act="hard_swish"),
    ),
    last=576,
    hidden=1024,
    bn=TF_SLIM,
)


def scaled(network: Network, multiplier: float) -> Network:
    """The network at a width multiplier; below 1 it leaves V2's last conv and V3's hidden layer as they are."""
    blocks, width, wide = [], network.stem, divisible(network.stem * multiplier)
    for row in network.blocks:
        out = divisible(row.out * multiplier)
        # V2 multiplies the width that it reads by an integer; V3 names every expansion
        expand = row.expand // width * wide if network.hidden is None else divisible(row.expand * multiplier)
        blocks.append(dataclasses.replace(row, expand=expand, out=out))
        width, wide = row.out, out
    last = divisible(network.last * (max(multiplier, 1.0) if network.hidden is None else multiplier))
    hidden = network.hidden and divisible(network.hidden * max(multiplier, 1.0))
    return dataclasses.replace(
        network, blocks=tuple(blocks), stem=divisible(network.stem * multiplier), last=last, hidden=hidden
    )


def _inverted(x, row: Inverted, stride: int, bn: BatchNorm, name: str):
    shortcut = x
    if row.expand != x.shape[-1]:
        x = conv_bn(x, row.expand, 1, f"{name}_expand", act=row.act, bn=bn)
    x = depthwise_bn(x, row.kernel, f"{name}_dw", stride, row.act, bn)
    if row.se:
        x = SqueezeExcite(gate="hard_sigmoid", hidden=divisible(row.expand / 4), name=f"{name}_se")(x)
    x = conv_bn(x, row.out, 1, f"{name}_project", act=None, bn=bn)
    if row.stride == 1 and shortcut.shape[-1] == row.out:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def build_inverted(
    network: Network = V2,
    multiplier: float = 1.0,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    delay: int = 0,
    name: str = "mobilenet_v2",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits: MobileNetV2 or V3, at a width multiplier."""
    network = scaled(network, multiplier)
    stem_stride, *strides = delayed([2, *(row.stride for row in network.blocks)], delay)
    x = inputs = keras.Input(input_shape, name="images")
    x = conv_bn(x, network.stem, 3, "stem", stem_stride, network.stem_act, network.bn)
    for number, (row, stride) in enumerate(zip(network.blocks, strides, strict=True), 1):
        x = _inverted(x, row, stride, network.bn, f"block{number}")
    x = global_pool(conv_bn(x, network.last, 1, "last_conv", act=network.stem_act, bn=network.bn))
    if network.hidden:
        x = activate(dense(x, network.hidden, "hidden"), network.stem_act, f"hidden_{network.stem_act}")
    x = Dropout(network.dropout, name="dropout")(x)
    return keras.Model(inputs, classifier(x, num_classes), name=name)
