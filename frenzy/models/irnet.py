"""IR-NET: inverted residuals for 100 classes at 56x56, with squeeze-and-excite and conditional convolutions as options.

Source: Bollepalli, "IR-NET", table 1 (structure), figures 2 to 4 (blocks A, B, C), table 2 (training). Expansion is 4 everywhere.

    stem conv3x3 BN ReLU | blocks | conv1x1 BN ReLU | global average pool | dense
    A:  x -> conv1x1 BN ReLU -> depthwise3x3 BN ReLU -> conv1x1 BN (+ x)
    B:  A with squeeze-and-excite, R = 4, before the last conv
    C:  B whose three convs mix M = 4 experts by one routing of the block's input

The paper does not say how strides pad; here (k - 1) / 2 on every side.
"""

import dataclasses
from collections.abc import Sequence

import tf_keras as keras

from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D, Routing
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.models.conv_bn import activate, batch_norm, classifier, conv_bn, depthwise_bn, global_pool, pad

EXPANSION = 4
SE_REDUCTION = 4
EXPERTS = 4
STEM = 16
HEAD = 1280
KINDS = ("A", "B", "C")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of table 1: `repeat` blocks of one kind (A, B or C), of which the first has the stride.

    The shortcut is there (the table's ID=True) where stride and width allow it.
    """

    out: int
    repeat: int = 1
    stride: int = 1
    kind: str = "A"


TABLE_1 = (
    Row(out=16),  # 56x56 in
    Row(out=24),
    Row(out=24),
    Row(out=40, stride=2),
    Row(out=40, repeat=2),  # 28x28 in
    Row(out=80, stride=2),
    Row(out=80, repeat=3),  # 14x14 in
    Row(out=160, stride=2),
    Row(out=160, repeat=4),  # 7x7 in
    Row(out=320),
)


def of_kind(kinds: str | Sequence[str], rows: tuple[Row, ...] = TABLE_1) -> tuple[Row, ...]:
    """The rows with block kinds set: one letter for all, or one a row. Raises ValueError for other letters or counts."""
    letters = list(kinds) * len(rows) if len(kinds) == 1 else list(kinds)
    if len(letters) != len(rows) or not set(letters) <= set(KINDS):
        raise ValueError(f"block kinds {kinds!r}; give one of A, B, C, or {len(rows)} of them, one a row")
    return tuple(dataclasses.replace(row, kind=kind) for row, kind in zip(rows, letters, strict=True))


def _conv_bn(x, routing, width: int | None, kernel: int, name: str, stride: int = 1, act: str | None = "relu"):
    """A conv of `width` outputs (None: depthwise), BN, activation; a CondConv where there is a routing."""
    if routing is None:
        return conv_bn(x, width, kernel, name, stride, act) if width else depthwise_bn(x, kernel, name, stride, act)
    x, padding = pad(x, kernel, stride, name)
    options = {"experts": EXPERTS, "stride": stride, "padding": padding, "name": name}
    layer = CondConv2D(width, kernel, **options) if width else CondDepthwiseConv2D(kernel, **options)
    return activate(batch_norm(layer([x, routing]), f"{name}_bn"), act, f"{name}_{act}")


def _block(x, out: int, stride: int, kind: str, name: str):
    shortcut, expanded = x, EXPANSION * x.shape[-1]
    routing = Routing(EXPERTS, name=f"{name}_routing")(x) if kind == "C" else None
    x = _conv_bn(x, routing, expanded, 1, f"{name}_expand")
    x = _conv_bn(x, routing, None, 3, f"{name}_dw", stride)
    if kind != "A":
        x = SqueezeExcite(SE_REDUCTION, name=f"{name}_se")(x)
    x = _conv_bn(x, routing, out, 1, f"{name}_project", act=None)
    if stride == 1 and shortcut.shape[-1] == out:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def build(
    rows: tuple[Row, ...] = TABLE_1,
    num_classes: int = 100,
    input_shape: tuple[int, int, int] = (56, 56, 3),
    stem: int = STEM,
    head: int = HEAD,
    name: str = "irnet",
) -> keras.Model:
    """(n, h, w, 3) normalised images -> (n, num_classes) logits, from rows."""
    x = inputs = keras.Input(input_shape, name="images")
    x = conv_bn(x, stem, 3, "stem")
    for number, row in enumerate(rows, 1):
        for i in range(row.repeat):
            x = _block(x, row.out, 1 if i else row.stride, row.kind, f"row{number}_{i + 1}")
    x = global_pool(conv_bn(x, head, 1, "head"))
    return keras.Model(inputs, classifier(x, num_classes), name=name)
