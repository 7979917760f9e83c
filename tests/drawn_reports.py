"""Reports made by hand, for what turns reports into text and pictures."""

from fractions import Fraction

from frenzy.accounting.report import COUNTED, FREE, UNKNOWN, Report, Row, Score


def node(name, op="Relu", inputs=(), shape=(1, 8, 8, 16), macs=0, parameters=0, status=None, **facts):
    """A row with as many multiplies as adds, and 16-bit parameters."""
    came = facts.pop("input_shapes", tuple((1, 8, 8, 16) for _ in inputs))
    status = status or (COUNTED if macs or parameters else FREE)
    return Row(
        name, op, tuple(inputs), came, shape, parameters=parameters, multiplies=macs, adds=macs, storage_bits=16 * parameters,
        operation_bits=48 * macs, status=status, **facts,
    )  # fmt: skip


def report_of(*rows, notes=()):
    return Report(
        "model/", "serving_default", "frenzy", "a paper", rows, Score("cifar100", Fraction(1, 8), Fraction(1, 3)), notes
    )


def conv(name, *inputs, **facts):
    facts = {"kernel": (3, 3), "stride": (1, 1), "width": 16, "groups": 1, "macs": 1000, "parameters": 100, **facts}
    return node(name, "Conv2D", inputs, **facts)


def gated():
    """A squeeze-and-excite gate inside a residual block, a concat of three branches, an op without a rule, an Identity."""
    return report_of(
        node("x", "Placeholder"),
        conv("a", "x"),
        node("a/bn", "FusedBatchNormV3", ["a"]),
        node("a/act", "Relu6", ["a/bn"]),
        node("mean", "Mean", ["a/act"], (1, 16)),
        node("fc", "MatMul", ["mean"], (1, 16), macs=256, parameters=256),
        node("gate", "Sigmoid", ["fc"], (1, 16), macs=16),
        node("scaled", "Mul", ["a/act", "gate"], macs=1024),
        node("sum", "AddV2", ["x", "scaled"], macs=1024),
        node("seen/through", "Identity", ["sum"]),
        conv("b1", "seen/through"),
        conv("b2", "seen/through", macs=50_000),
        conv("b3", "seen/through"),
        conv("b3/second", "b3"),
        node("joined", "ConcatV2", ["b1", "b2", "b3/second"]),
        node("odd", "Exotic", ["joined"], status=UNKNOWN, formula="no rule for op 'Exotic'"),
        notes=("weights at 16 bits",),
    )
