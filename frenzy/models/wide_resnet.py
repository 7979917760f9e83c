"""Wide residual networks: Zagoruyko and Komodakis, arXiv 1605.07146, and McDonnell's, arXiv 1802.08530.

    stem conv3x3 | block x n, three groups | BN ReLU | head
    block:  x -> BN ReLU conv3x3 -> BN ReLU conv3x3 -> + shortcut

Depth counts convolutions: WRN-22-6 has three blocks a group, WRN-28-10 four; McDonnell counts without shortcuts, so his
20-layer networks have three blocks a group and his 26-layer ones four.
"""

import dataclasses

import tf_keras as keras

from frenzy.layers.channels import ZeroPadChannels
from frenzy.models.conv_bn import TORCH, BatchNorm, batch_norm, classifier, conv, global_pool


@dataclasses.dataclass(frozen=True)
class Rows:
    """A whole network: the stem's width, the groups' widths (the second and later begin with stride 2) and blocks a group.

    `activated_identity`: a shortcut without conv carries BN and ReLU of x instead of x; `residual_scale` multiplies the
    branch. Both as fastai's code has them; the paper has neither.
    """

    stem: int
    widths: tuple[int, ...]
    blocks: int
    activated_identity: bool = False
    residual_scale: float = 1.0


def wide(blocks: int, k: int) -> Rows:
    """Table 1 of arXiv 1605.07146: 16 channels, then groups of 16 k, 32 k and 64 k."""
    return Rows(stem=16, widths=(16 * k, 32 * k, 64 * k), blocks=blocks)


WRN_28_10 = wide(blocks=4, k=10)  # the MicroNet challenge's CIFAR-100 baseline
WRN_22_6 = wide(blocks=3, k=6)  # a MicroNet entry, "Micronet - Cifar100": k = 6, N = 3
# the same as fastai 1.0 wires it (fastai/vision/models/wrn.py), which that entry trained
FASTAI_22_6 = dataclasses.replace(WRN_22_6, activated_identity=True, residual_scale=0.2)


def _bn_relu(x, name: str, bn: BatchNorm):
    return keras.layers.ReLU(name=f"{name}_relu")(batch_norm(x, f"{name}_bn", bn))


def _block(x, width: int, stride: int, rows: Rows, name: str):
    active = _bn_relu(x, f"{name}_conv1", TORCH)
    y = conv(active, width, 3, f"{name}_conv1", stride)
    y = conv(_bn_relu(y, f"{name}_conv2", TORCH), width, 3, f"{name}_conv2")
    if rows.residual_scale != 1:
        y = keras.layers.Rescaling(rows.residual_scale, name=f"{name}_scale")(y)
    shortcut = active if rows.activated_identity else x
    if stride > 1 or x.shape[-1] != width:
        shortcut = conv(active, width, 1, f"{name}_shortcut", stride)
    return keras.layers.Add(name=f"{name}_add")([y, shortcut])


def build(
    rows: Rows = WRN_28_10,
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "wide_resnet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, from rows; strides pad one pixel on every side."""
    x = inputs = keras.Input(input_shape, name="images")
    x = conv(x, rows.stem, 3, "stem")
    for group, width in enumerate(rows.widths, 1):
        for i in range(rows.blocks):
            x = _block(x, width, 2 if group > 1 and not i else 1, rows, f"group{group}_{i + 1}")
    x = global_pool(_bn_relu(x, "head", TORCH))
    return keras.Model(inputs, classifier(x, num_classes), name=name)


PLAIN = BatchNorm(epsilon=1e-3, decay=0.99, learned=False)
LEARNED = BatchNorm(epsilon=1e-3, decay=0.99)


def mcdonnell_rows(blocks: int, k: int) -> Rows:
    """Section 3 of arXiv 1802.08530: groups of 16 k, 32 k and 64 k; the stem is as wide as the first."""
    return Rows(stem=16 * k, widths=(16 * k, 32 * k, 64 * k), blocks=blocks)


def _same_conv(x, width: int, kernel: int, name: str, stride: int = 1):
    return keras.layers.Conv2D(
        width, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)  # fmt: skip


def _mcdonnell_block(x, width: int, stride: int, name: str):
    shortcut = x
    if stride > 1:
        shortcut = keras.layers.AveragePooling2D(3, stride, "same", name=f"{name}_shortcut_pool")(x)
    if missing := width - x.shape[-1]:
        shortcut = ZeroPadChannels(missing, name=f"{name}_shortcut_pad")(shortcut)
    y = _same_conv(_bn_relu(x, f"{name}_conv1", PLAIN), width, 3, f"{name}_conv1", stride)
    y = _same_conv(_bn_relu(y, f"{name}_conv2", PLAIN), width, 3, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([y, shortcut])


def build_mcdonnell(
    rows: Rows,
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "mcdonnell",
) -> keras.Model:
    """(n, h, w, 3) images of any scale -> (n, num_classes) logits, from rows: every conv could do with one bit a weight.

    A learned BN of the input; no learned scale or offset in front of convs; shortcuts are 3x3 average pools and zero
    channels; the head is BN, ReLU, a 1x1 conv, a learned BN and global average pooling. Strides pad SAME.
    """
    x = inputs = keras.Input(input_shape, name="images")
    x = _same_conv(batch_norm(x, "input_bn", LEARNED), rows.stem, 3, "stem")
    for group, width in enumerate(rows.widths, 1):
        for i in range(rows.blocks):
            x = _mcdonnell_block(x, width, 2 if group > 1 and not i else 1, f"group{group}_{i + 1}")
    x = _same_conv(_bn_relu(x, "head", PLAIN), num_classes, 1, "head")
    x = batch_norm(x, "head_out_bn", LEARNED)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name=name)
