"""What a search decides: kernel and width of every searched layer; as rows of a file, and as numbers for the cost."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from frenzy.compress.single_path.cost import Choice
from frenzy.compress.single_path.graph import Network
from frenzy.compress.tensors import CompressError


@dataclasses.dataclass(frozen=True)
class Decision:
    """The height and width of a layer's kernel, and its channels."""

    kernel: tuple[int, int]
    width: int


Decisions = Mapping[str, Decision]


def whole(network: Network, names) -> dict[str, Decision]:
    """The decisions that cut nothing."""
    return {name: Decision(network.ops[name].kernel, network.ops[name].channels) for name in names}


def check_decisions(network: Network, decisions: Decisions) -> None:
    """Raises CompressError for a layer that is not there, or a kernel or a width that it cannot have."""
    for name, decision in decisions.items():
        if name not in network.ops:
            raise CompressError(f"{network.name} has no layer '{name}'; the rows are of another network")
        op = network.ops[name]
        if why := network.why_not(name):
            raise CompressError(f"{network.name}: '{name}' cannot be cut down: {why}")
        smaller = decision.kernel != op.kernel
        if any(side < 1 or side > most or (most - side) % 2 for side, most in zip(decision.kernel, op.kernel, strict=True)):
            raise CompressError(f"'{name}': kernel {decision.kernel} does not fit into {op.kernel}; sides are odd, 1 or more")
        if smaller and (why := network.why_not_kernel(name)):
            raise CompressError(f"'{name}': kernel {decision.kernel} cannot be had: {why}")
        if not 1 <= decision.width <= op.channels:
            raise CompressError(f"'{name}': {decision.width} channels; it must be 1 to {op.channels}")
        if decision.width < op.channels and (why := network.why_not_width(name)):
            raise CompressError(f"'{name}': {decision.width} channels cannot be had: {why}")


def choices(network: Network, decisions: Decisions) -> dict[str, Choice]:
    """Decisions as the cost takes them."""
    found = {}
    for name, decision in decisions.items():
        op, (height, width) = network.ops[name], decision.kernel
        live = (np.arange(op.channels) < decision.width).astype(np.float64)
        found[name] = Choice(_one_of(op.kernel[0], height), _one_of(op.kernel[1], width), live, (decision.width,))
    return found


def _one_of(most: int, side: int) -> dict[int, int]:
    return {each: int(each == side) for each in {*range(most % 2, most + 1, 2), most} if each}


def text(
    network: str, num_classes: int, input_shape: tuple[int, ...], decisions: Decisions, facts: Mapping | None = None
) -> str:
    """A rows file: JSON, a line a layer, so that two of them can be compared line by line."""
    head = {"network": network, "num_classes": num_classes, "input_shape": list(input_shape), **(facts or {})}
    rows = [
        json.dumps({"layer": name, "kernel": list(decision.kernel), "width": decision.width})
        for name, decision in decisions.items()
    ]
    body = json.dumps(head, indent=1).removesuffix("\n}")
    return body + ',\n "rows": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


@dataclasses.dataclass(frozen=True)
class RowsFile:
    """A found network: the zoo network that it was cut from, and the decisions. `facts`: whatever else the file says."""

    network: str
    num_classes: int
    input_shape: tuple[int, ...]
    decisions: dict[str, Decision]
    facts: dict[str, Any]


def read_rows(path: str | os.PathLike) -> RowsFile:
    """Raises CompressError where the file is missing or is none of a found network."""
    try:
        found = json.loads(pathlib.Path(path).read_text())
        rows = {row["layer"]: Decision(tuple(map(int, row["kernel"])), int(row["width"])) for row in found.pop("rows")}  # type: ignore[arg-type]
        network, classes, shape = (found.pop(key) for key in ("network", "num_classes", "input_shape"))
        return RowsFile(str(network), int(classes), tuple(map(int, shape)), rows, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CompressError(f"{path} is no rows file ({' '.join(str(e).split())[:200]}); tools/search.py writes such") from None
