"""Frenzy: a wide residual network for CIFAR-100 whose convolutions were cut down by single-path NAS.

Source: Matas, Fedorov, Tann, Zhou, Whatmough, Mattina, "Frenzy: ARM ML Research MicroNet Submission", 2019 (80.34 % on
CIFAR-100). The backbone is McDonnell's (arXiv 1802.08530): BN before every convolution has no learned scale or offset,
shortcuts are average pools and zero channels, and the classifier is a 1x1 convolution, BN and a global average pool.

    stem conv | block x 9 | BN ReLU 1x1-conv BN average-pool
    block:  x -> BN ReLU prune(1x1) -> BN ReLU conv1 -> BN ReLU conv2 -> pad channels -> + shortcut(x)
"""

import dataclasses
from collections.abc import Sequence

import tf_keras as keras

from frenzy.layers.channels import ZeroPadChannels

BN_EPSILON = 1e-3
BN_DECAY = 0.99

Kernel = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Block:
    """One residual block: what its three convolutions keep. `width` is the block's output width; conv2 is zero-padded up to it."""

    width: int
    prune: int
    conv1: Kernel
    a: int
    conv2: Kernel
    b: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """A whole network: the stem's kernel and width, then the blocks."""

    stem_kernel: Kernel
    stem: int
    blocks: tuple[Block, ...]


# The submitted network, block by block (winner.py of the submission; 32x32 inputs).
FINAL = Rows(
    stem_kernel=(1, 1),  # the search cut the 3x3 of the text down to 1x1
    stem=100,
    blocks=(
        Block(width=100, prune=50, conv1=(3, 3), a=100, conv2=(3, 3), b=100),  # 32x32 in
        Block(width=100, prune=10, conv1=(3, 3), a=50, conv2=(1, 1), b=25),
        Block(width=100, prune=10, conv1=(1, 1), a=10, conv2=(3, 3), b=25),
        Block(width=200, prune=100, conv1=(1, 1), a=20, conv2=(1, 1), b=20, stride=2),
        Block(width=200, prune=20, conv1=(3, 3), a=200, conv2=(1, 1), b=20),  # 16x16 in
        Block(width=200, prune=50, conv1=(3, 3), a=200, conv2=(3, 3), b=200),
        Block(width=400, prune=200, conv1=(3, 3), a=200, conv2=(3, 3), b=400, stride=2),
        Block(width=400, prune=400, conv1=(3, 3), a=400, conv2=(3, 3), b=100),  # 8x8 in
        Block(width=400, prune=400, conv1=(3, 3), a=100, conv2=(1, 3), b=400),
    ),
)


def unpruned_rows(widths: Sequence[int] = (100, 200, 400), blocks_a_group: int = 3) -> Rows:
    """The network before the search: every conv 3x3 at full width, each prune conv as wide as the stream that it reads."""
    blocks = []
    stream = widths[0]
    for group, width in enumerate(widths):
        for i in range(blocks_a_group):
            stride = 2 if group and not i else 1
            blocks.append(Block(width, prune=stream, conv1=(3, 3), a=width, conv2=(3, 3), b=width, stride=stride))
            stream = width
    return Rows((3, 3), widths[0], tuple(blocks))


UNPRUNED = unpruned_rows()


def _batch_norm(x, name: str, learned: bool = False):
    return keras.layers.BatchNormalization(momentum=BN_DECAY, epsilon=BN_EPSILON, center=learned, scale=learned, name=name)(x)


def _conv(x, width: int, kernel: Kernel, name: str, stride: int = 1, symmetric: bool = False):
    """A conv without bias. `symmetric` pads (k - 1) / 2 on each side, where TensorFlow's SAME at stride 2 pads behind only."""
    if symmetric and stride > 1 and kernel != (1, 1):
        rows, cols = ((side - 1) // 2 for side in kernel)
        x = keras.layers.ZeroPadding2D((rows, cols), name=f"{name}_space")(x)
    else:
        symmetric = False
    return keras.layers.Conv2D(
        width, kernel, stride, "valid" if symmetric else "same",
        use_bias=False, kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip


def _bn_relu_conv(x, width: int, kernel: Kernel, name: str, stride: int = 1, symmetric: bool = False):
    x = _batch_norm(x, f"{name}_bn")
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return _conv(x, width, kernel, name, stride, symmetric)


def _to_width(x, width: int, name: str):
    missing = width - x.shape[-1]
    return ZeroPadChannels(missing, name=name)(x) if missing else x


def _block(x, row: Block, name: str, symmetric: bool):
    shortcut = x
    if row.stride > 1:
        shortcut = keras.layers.AveragePooling2D(3, row.stride, "same", name=f"{name}_shortcut_pool")(shortcut)
    shortcut = _to_width(shortcut, row.width, f"{name}_shortcut_pad")
    x = _bn_relu_conv(x, row.prune, (1, 1), f"{name}_prune")
    x = _bn_relu_conv(x, row.a, row.conv1, f"{name}_conv1", row.stride, symmetric)
    x = _bn_relu_conv(x, row.b, row.conv2, f"{name}_conv2")
    x = _to_width(x, row.width, f"{name}_pad")
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])


def check_rows(rows: Rows) -> None:
    """Raises ValueError where a block asks for channels that its group does not have, or narrows the stream."""
    stream = rows.stem
    for number, row in enumerate(rows.blocks, 1):
        if row.b > row.width:
            raise ValueError(f"block {number}: conv2 gives {row.b} channels, more than the block's width of {row.width}")
        if row.width < stream:
            raise ValueError(f"block {number}: width {row.width} is below the {stream} channels that its shortcut carries")
        stream = row.width


def build(
    rows: Rows = FINAL,
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    symmetric_padding: bool = False,
    name: str = "frenzy",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, from rows; he-normal kernels.

    `symmetric_padding` pads the 3x3 stride-2 convs by one pixel on every side instead of SAME: there alone a kernel masked
    down to 1x1, 1x3 or 3x1 equals the small kernel. The published network pads SAME.
    """
    check_rows(rows)
    x = inputs = keras.Input(input_shape, name="images")
    x = _conv(x, rows.stem, rows.stem_kernel, "stem")
    for number, row in enumerate(rows.blocks, 1):
        x = _block(x, row, f"block{number}", symmetric_padding)
    x = _bn_relu_conv(x, num_classes, (1, 1), "head")
    x = _batch_norm(x, "head_out_bn", learned=True)
    x = keras.layers.AveragePooling2D((x.shape[1], x.shape[2]), name="head_pool")(x)
    x = keras.layers.Reshape((num_classes,), name="logits")(x)
    return keras.Model(inputs, x, name=name)
