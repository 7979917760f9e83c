#!/usr/bin/env python3
"""The network of SavedModel/ as rows, and its size and operation count by plain arithmetic: standard library alone.

    python winner.py                          every node with its formula and value, the totals and the score
    python winner.py --convention micronet    the same by the rules of the MicroNet challenge

Source of the rows: Matas, Fedorov, Tann, Zhou, Whatmough, Mattina, "Frenzy: ARM ML Research MicroNet Submission", 2019.
MS is the model's size in bytes, OC its operation count for one image, in 32-bit operations.
"""

import argparse
import dataclasses
import json
import os
from fractions import Fraction
from math import ceil

INPUT = (32, 32, 3)
STEM = ((1, 1), 100)  # kernel, width
HEAD = ((1, 1), 100)
BLOCKS = (  # width, prune, conv1 and its width a, conv2 and its width b, stride
    (100, 50, (3, 3), 100, (3, 3), 100, 1),  # 32x32 in
    (100, 10, (3, 3), 50, (1, 1), 25, 1),
    (100, 10, (1, 1), 10, (3, 3), 25, 1),
    (200, 100, (1, 1), 20, (1, 1), 20, 2),
    (200, 20, (3, 3), 200, (1, 1), 20, 1),  # 16x16 in
    (200, 50, (3, 3), 200, (3, 3), 200, 1),
    (400, 200, (3, 3), 200, (3, 3), 400, 2),
    (400, 400, (3, 3), 400, (3, 3), 100, 1),  # 8x8 in
    (400, 400, (3, 3), 100, (1, 3), 400, 1),
)
BYTES = 2  # a weight has 16 bits
BASELINE = {"storage": 36_500_000, "operations": 10_490_000_000}  # WRN-28-10 on CIFAR-100

RULES = {
    "frenzy": (
        "MS: 2 bytes a conv weight. OC: 1.5 a multiply-accumulate (a 16-bit multiply 0.5, a 32-bit add 1).",
        "ADD: 1 a live output element. Pool: 3 k^2 (k + padding)^2, fitted to the published figures.",
        "BN, ReLU, pad: free. Score: parameters / 36.5e6 (in full, not halved) + OC / 10.49e9.",
    ),
    "micronet": (
        "MS: 2 bytes a parameter. OC: a 16-bit multiply 0.5, a 32-bit add 1; a dot product of n: n - 1 adds.",
        "BN after a conv that feeds nothing else is folded: a bias. Any other BN: a scale and a shift.",
        "ADD: 1 where both operands are live. Pad: free. Score: MS / 4 / 36.5e6 + OC / 10.49e9.",
    ),
}


@dataclasses.dataclass(eq=False)
class Node:
    name: str
    kind: str
    inputs: tuple["Node", ...]
    shape: tuple[int, int, int]  # height, width, channels
    live: frozenset[int]  # the channels that are not known to be zero or constant
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    multiplies: int = 0
    adds: int = 0
    parameters: int = 0
    operations: Fraction = Fraction(0)
    storage_formula: str = ""
    formula: str = ""
    status: str = "free"

    def count(self, multiplies, adds, formula, parameters=0, storage_formula="", status="counted"):
        self.multiplies, self.adds, self.parameters, self.status = multiplies, adds, parameters, status
        self.operations = Fraction(multiplies, 2) + adds
        self.formula, self.storage_formula = formula, f"{storage_formula}*{BYTES}" if parameters else ""


def network(liveness: bool = True) -> list[Node]:
    """Every node, input to logits, with the channels that are live at its output. Without `liveness` all channels are."""
    nodes: list[Node] = []

    def add(name, kind, *inputs, width=None, kernel=(1, 1), stride=1):
        height, columns, channels = inputs[0].shape if inputs else INPUT
        shape = (1, 1, channels) if kind == "reshape" else (ceil(height / stride), ceil(columns / stride), width or channels)
        if kind in ("input", "conv") or not liveness:
            live = frozenset(range(shape[2]))
        else:  # zero-padded channels are not live; BN and ReLU make them constants, a pool keeps them, ADD takes the union
            live = frozenset().union(*(node.live for node in inputs))
        nodes.append(Node(name, kind, inputs, shape, live, kernel, stride))
        return nodes[-1]

    def bn_relu_conv(x, name, width, kernel=(1, 1), stride=1):
        x = add(f"{name}_relu", "relu", add(f"{name}_bn", "bn", x))
        return add(name, "conv", x, width=width, kernel=kernel, stride=stride)

    def pad(x, width, name):
        return x if x.shape[2] == width else add(name, "pad", x, width=width)

    x = add("stem", "conv", add("images", "input"), width=STEM[1], kernel=STEM[0])
    for number, (width, prune, kernel1, a, kernel2, b, stride) in enumerate(BLOCKS, 1):
        name, shortcut = f"block{number}", x
        if stride > 1:
            shortcut = add(f"{name}_shortcut_pool", "pool", shortcut, kernel=(3, 3), stride=stride)
        shortcut = pad(shortcut, width, f"{name}_shortcut_pad")
        x = bn_relu_conv(x, f"{name}_prune", prune)
        x = bn_relu_conv(x, f"{name}_conv1", a, kernel1, stride)
        x = bn_relu_conv(x, f"{name}_conv2", b, kernel2)
        x = add(f"{name}_add", "add", pad(x, width, f"{name}_pad"), shortcut)
    x = add("head_out_bn", "bn", bn_relu_conv(x, "head", HEAD[1], HEAD[0]))
    add("logits", "reshape", add("head_pool", "pool", x, kernel=x.shape[:2], stride=x.shape[0]))
    return nodes


def count(node: Node, convention: str, folded: bool) -> None:
    """Fills in the node's counts; `out` is its live output elements."""
    (height, width, _), (rows, columns), frenzy = node.shape, node.kernel, convention == "frenzy"
    live, elements = len(node.live), height * width * len(node.live)
    out = f"{height}*{width}*{live}"
    if node.kind == "conv":
        live_in = len(node.inputs[0].live)
        dot, weights = rows * columns * live_in, f"{rows}*{columns}*{live_in}*{live}"
        adds, formula = (dot - 1) * elements, f"({dot}/2 + {dot - 1}) * {out}"
        if frenzy:
            adds, formula = dot * elements, f"{weights} * {height}*{width} * 1.5"
        node.count(dot * elements, adds, formula, dot * live, weights)
    elif node.kind == "add":  # in micronet, where one operand is zero the sum is a copy
        both = live if frenzy else len(node.inputs[0].live & node.inputs[1].live)
        node.count(0, height * width * both, f"{height}*{width}*{both}")
    elif node.kind == "pool":
        window = rows * columns
        node.count(elements, (window - 1) * elements, f"(1/2 + {window - 1}) * {out}")
        if frenzy:  # no sensible rule gives the published figures; this one fits all three, and no more is claimed for it
            padded = rows + max((height - 1) * node.stride + rows - node.inputs[0].shape[0], 0)
            node.count(0, 3 * window * padded**2 * elements, f"3*{window}*{padded**2} * {out}  # fitted")
    elif node.kind == "bn" and folded and not frenzy:
        node.count(0, elements, out, live, f"{live}", status="folded")
    elif node.kind == "bn" and not frenzy:
        node.count(elements, elements, f"(1/2 + 1) * {out}", 2 * live, f"2*{live}")
    elif node.kind == "relu" and not frenzy:
        node.count(elements, 0, f"1/2 * {out}")


def nodes(convention: str, liveness: bool = True) -> list[Node]:
    """The network's nodes, counted under 'frenzy' or 'micronet'."""
    result = network(liveness)
    for node in result:
        alone = [other for other in result if set(node.inputs) & set(other.inputs)] == [node]
        count(node, convention, folded=alone and node.inputs[0].kind == "conv")
    return result


def score(rows: list[Node], convention: str) -> tuple[Fraction, Fraction]:
    """(storage, operations) as shares of the challenge's baseline; 'frenzy' counts a 16-bit parameter as a whole one."""
    bits = 32 if convention == "frenzy" else 8 * BYTES
    storage = Fraction(sum(node.parameters for node in rows) * bits, 32)
    return storage / BASELINE["storage"], sum(node.operations for node in rows) / Fraction(BASELINE["operations"])


def number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def table(rows: list[Node], convention: str) -> str:
    lines = [f"Frenzy, CIFAR-100, convention {convention}", *RULES[convention], ""]
    lines.append(f"{'node':20} {'output':>9} {'MS, bytes':>9}   {'':13} {'OC':>11}")
    for node in rows:
        text = f"{node.name:20} {'x'.join(map(str, node.shape)):>9} "
        text += f"{BYTES * node.parameters:>9,} = {node.storage_formula:13} " if node.parameters else " " * 26
        text += "free" if node.status == "free" else f"{number(node.operations):>11,} = {node.formula}"
        lines.append(text + "  # folded" * (node.status == "folded"))
    kinds = {node.kind: Fraction(0) for node in rows if node.operations}
    for kind in kinds:
        kinds[kind] = sum((node.operations for node in rows if node.kind == kind), Fraction(0))
    parameters, (storage, operations) = sum(node.parameters for node in rows), score(rows, convention)
    return "\n".join(lines + [
        f"\nparameters {parameters:,}",
        f"MS         {BYTES * parameters:,} bytes = {BYTES * parameters / 2**20:.3f} MiB",
        f"OC         {number(sum(kinds.values(), Fraction(0))):,} = "
        + " + ".join(f"{number(value):,} {kind}" for kind, value in kinds.items()),
        f"score      {float(storage):.7f} + {float(operations):.7f} = {float(storage + operations):.4f}",
    ])  # fmt: skip


def as_json(rows: list[Node]) -> str:
    keys = ("name", "kind", "multiplies", "adds", "parameters", "storage_bytes", "operations", "formula", "status")
    values = ({**vars(node), "storage_bytes": BYTES * node.parameters, "operations": number(node.operations)} for node in rows)
    return "[\n" + ",\n".join(json.dumps({key: row[key] for key in keys}) for row in values) + "\n]"


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"winner.py: {message}\n")


if __name__ == "__main__":
    parser = Parser(description="Frenzy's size and operations, node by node, by hand.", allow_abbrev=False)
    parser.add_argument("--convention", choices=RULES, default="frenzy")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    flags = parser.parse_args()
    rows = nodes(flags.convention)
    try:
        print(as_json(rows) if flags.format == "json" else table(rows, flags.convention), flush=True)
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
