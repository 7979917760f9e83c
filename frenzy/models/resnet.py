"""Residual networks: He et al., arXiv 1512.03385: the CIFAR ones of section 4.2 and ResNet-18 of table 1.

stem conv BN ReLU [max pool] | block x n, in groups | global average pool | dense
block:  x -> conv3x3 BN ReLU -> conv3x3 BN -> + shortcut -> ReLU
"""

import dataclasses

import tf_keras as keras

from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.subsample import Subsample
from frenzy.models.conv_bn import classifier, conv_bn, global_pool


@dataclasses.dataclass(frozen=True)
class Rows:
    """A whole network: the groups' widths and blocks a group; groups after the first begin with stride 2.

    shortcut: "zeros" (option A of the paper: every second pixel, zeros behind the last channel) or "conv" (option B: a
    strided 1x1 conv and BN). `imagenet_stem`: 7x7 stride 2 and a max pool, else 3x3 alone.
    """

    widths: tuple[int, ...]
    blocks: int
    shortcut: str
    imagenet_stem: bool = False


def cifar(depth: int) -> Rows:
    """Section 4.2: 6 n + 2 layers, n blocks each of 16, 32 and 64 channels, shortcuts without weights."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth is {depth}; a CIFAR ResNet has 6 n + 2 layers: 20, 32, 44, 56")
    return Rows(widths=(16, 32, 64), blocks=depth // 6, shortcut="zeros")


RESNET_18 = Rows(widths=(64, 128, 256, 512), blocks=2, shortcut="conv", imagenet_stem=True)
RESNET_18_CIFAR = dataclasses.replace(RESNET_18, imagenet_stem=False)


def _shortcut(x, width: int, stride: int, kind: str, name: str):
    if stride == 1 and x.shape[-1] == width:
        return x
    if kind == "conv":
        return conv_bn(x, width, 1, f"{name}_shortcut", stride, act=None)
    if stride > 1:
        x = Subsample(stride, name=f"{name}_shortcut_subsample")(x)
    return ZeroPadChannels(width - x.shape[-1], name=f"{name}_shortcut_pad")(x)


def _block(x, width: int, stride: int, kind: str, name: str):
    y = conv_bn(x, width, 3, f"{name}_conv1", stride)
    y = conv_bn(y, width, 3, f"{name}_conv2", act=None)
    y = keras.layers.Add(name=f"{name}_add")([y, _shortcut(x, width, stride, kind, name)])
    return keras.layers.ReLU(name=f"{name}_relu")(y)


def build(
    rows: Rows,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "resnet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, from rows; strides pad (k - 1) / 2 on every side."""
    if rows.shortcut not in ("zeros", "conv"):
        raise ValueError(f"shortcut is {rows.shortcut!r}; allowed: 'zeros', 'conv'")
    x = inputs = keras.Input(input_shape, name="images")
    if rows.imagenet_stem:
        x = conv_bn(x, rows.widths[0], 7, "stem", stride=2)
        x = keras.layers.ZeroPadding2D(1, name="stem_pool_space")(x)  # behind a ReLU zeros never win
        x = keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    else:
        x = conv_bn(x, rows.widths[0], 3, "stem")
    for group, width in enumerate(rows.widths, 1):
        for i in range(rows.blocks):
            x = _block(x, width, 2 if group > 1 and not i else 1, rows.shortcut, f"group{group}_{i + 1}")
    return keras.Model(inputs, classifier(global_pool(x), num_classes), name=name)
