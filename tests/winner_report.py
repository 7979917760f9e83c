"""winner.py's nodes as an accountant's report: the real network for tests that must not load TensorFlow."""

from fractions import Fraction

import winner
from frenzy.accounting.report import Report, Row, Score

OPS = {
    "input": "Placeholder",
    "conv": "Conv2D",
    "bn": "FusedBatchNormV3",
    "relu": "Relu",
    "add": "AddV2",
    "pad": "Pad",
    "pool": "AvgPool",
    "reshape": "Reshape",
}


def row(node: winner.Node) -> Row:
    window = node.kind in ("conv", "pool")
    shapes = tuple((1, *operand.shape) for operand in node.inputs)
    return Row(
        name=node.name,
        op=OPS[node.kind],
        inputs=tuple(operand.name for operand in node.inputs),
        input_shapes=shapes,
        output_shape=(1, node.shape[2]) if node.kind == "reshape" else (1, *node.shape),
        kernel=node.kernel if window else None,
        stride=(node.stride, node.stride) if window else None,
        groups=1 if node.kind == "conv" else None,
        width=node.shape[2] if node.kind == "conv" else None,
        parameters=node.parameters,
        weight_bits=16 if node.parameters else None,
        live_in=len(node.inputs[0].live) if node.inputs else None,
        live_out=len(node.live),
        multiplies=node.multiplies,
        adds=node.adds,
        storage_bits=16 * node.parameters,
        operation_bits=int(node.operations * 32),
        formula=node.formula,
        status=node.status,
    )


def winner_report(convention: str = "frenzy") -> Report:
    """The report of the winning network under a convention, from winner.py alone."""
    nodes = winner.nodes(convention)
    storage, operations = winner.score(nodes, convention)
    return Report(
        folder="SavedModel/",
        entry="serving_default",
        convention=convention,
        source=winner.RULES[convention][0],
        rows=tuple(row(node) for node in nodes),
        score=Score("cifar100", Fraction(storage), Fraction(operations)),
        notes=winner.RULES[convention][1:],
    )
