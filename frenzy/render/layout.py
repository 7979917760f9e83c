"""A report's rows -> what a picture draws: cells (rows, collapsed or not), blocks with branches, columns side by side.

Blocks are found in the graph, not in names: wherever a single tensor carries everything on, the network can be cut, and
what lies between two cuts is one node or a block with branches: a residual block up to its ADD, an inception module up to
its concat, a squeeze-and-excite gate.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from frenzy.accounting.report import FREE, UNKNOWN, Report, Row
from frenzy.render.names import short_names

HIDDEN = frozenset({"Identity", "NoOp"})
ATTACHED = frozenset(
    {
        "BatchNorm", "BiasAdd", "Elu", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "HardSwish", "LeakyRelu",
        "Relu", "Relu6", "Selu", "Sigmoid", "Softplus", "Swish", "Tanh",
    }
)  # fmt: skip
WEIGHTED = frozenset({"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "MatMul"})
MAX_RANKS = 28  # a block deeper than this is cut into parts: a column has to fit a screen


@dataclasses.dataclass(frozen=True)
class Cell:
    """One box: `main` and the rows around it, in the order of the data. `inputs` names other cells; `label` is shown."""

    main: Row
    rows: tuple[Row, ...]
    inputs: tuple[str, ...]
    label: str

    @property
    def name(self) -> str:
        return self.main.name

    @property
    def storage_bits(self) -> int:
        return sum(row.storage_bits for row in self.rows)

    @property
    def operation_bits(self) -> int:
        return sum(row.operation_bits for row in self.rows)


@dataclasses.dataclass(frozen=True)
class Block:
    """Cells between two cuts, in the order of the data; `ranks` cells on the longest path, at most `lanes` beside each other."""

    cells: tuple[Cell, ...]
    ranks: int
    lanes: int
    title: str = ""


def visible(rows: Sequence[Row]) -> dict[str, tuple[Row, tuple[str, ...]]]:
    """name -> (row, the shown rows that feed it): free Identity and NoOp rows are left out and seen through."""
    passed = {row.name: row.inputs for row in rows if hidden(row)}
    shown = {row.name: row for row in rows if row.name not in passed}

    def origin(name: str) -> str:
        seen: set[str] = set()
        while passed.get(name) and name not in seen:
            seen.add(name)
            name = passed[name][0]
        return name

    return {
        name: (row, tuple(dict.fromkeys(source for source in map(origin, row.inputs) if source in shown)))
        for name, row in shown.items()
    }


def hidden(row: Row) -> bool:
    """Whether tables and pictures leave the row out: it does nothing and costs nothing."""
    return row.op in HIDDEN and row.status == FREE


def consumers(inputs: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in inputs}
    for name, sources in inputs.items():
        for source in sources:
            found[source].append(name)
    return found


def ordered(inputs: dict[str, tuple[str, ...]]) -> list[str]:
    """Names such that each stands behind its inputs, and an input without inputs right before its first reader."""
    users = consumers(inputs)
    done: dict[str, None] = {}
    for sink in [name for name in inputs if not users[name]] + list(inputs):  # the second half only for graphs with cycles
        stack, entered = [sink], set()
        while stack:
            name = stack[-1]
            waiting = [] if name in entered else [source for source in inputs[name] if source not in done]
            entered.add(name)
            if waiting:
                stack += [source for source in reversed(waiting) if source not in entered]
            else:
                done.setdefault(stack.pop())
    return list(done)


def cells(report: Report, collapse: bool = False) -> list[Cell]:
    """The report's boxes in the order of the data. `collapse` draws BN, bias and activation inside the conv beside them."""
    shown = visible(report.rows)
    inputs = {name: sources for name, (_, sources) in shown.items()}
    order = ordered(inputs)
    home = {name: name for name in order}
    if collapse:
        home = _homes({name: row for name, (row, _) in shown.items()}, inputs, order)
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(home[name], []).append(name)
    labels = short_names(report.rows)
    joined = {}
    for name, names in members.items():
        outside = (home[source] for member in names for source in inputs[member] if home[source] != name)
        joined[name] = Cell(
            shown[name][0], tuple(shown[member][0] for member in names), tuple(dict.fromkeys(outside)), labels[name]
        )
    return [joined[name] for name in ordered({name: cell.inputs for name, cell in joined.items()})]


def _homes(rows: dict[str, Row], inputs: dict[str, tuple[str, ...]], order: list[str]) -> dict[str, str]:
    """name -> the name of the weighted row that it is drawn inside: the one before it, else the one after it, else itself."""
    users = consumers(inputs)
    attached = {name for name, row in rows.items() if row.op in ATTACHED and row.status != UNKNOWN}
    weighted = {
        name for name, row in rows.items() if (row.parameters and row.kernel) or row.op in ("Conv2D", "MatMul")
    } - attached
    home = {name: name for name in order}
    for name in order:
        if name in attached and len(inputs[name]) == 1 and users[inputs[name][0]] == [name]:
            before = home[inputs[name][0]]
            home[name] = before if before in weighted else name
    for name in reversed(order):
        if name in attached and home[name] == name and len(users[name]) == 1:
            reader = users[name][0]
            if home[reader] in weighted and inputs[reader] == (name,):
                home[name] = home[reader]
    return home


def blocks(network: Sequence[Cell]) -> list[Block]:
    """Cut wherever one tensor alone carries the data on; blocks of more than one cell have branches."""
    last_use = {cell.name: i for i, cell in enumerate(network)}
    for i, cell in enumerate(network):
        for source in cell.inputs:
            last_use[source] = i
    runs: list[list[Cell]] = [[]]
    carried: set[str] = set()
    for i, cell in enumerate(network):
        runs[-1].append(cell)
        carried = {name for name in carried | {cell.name} if last_use[name] > i}
        if len(carried) <= 1:
            runs.append([])
    return titled([Block(tuple(part), *extent(part)) for run in runs if run for part in _parts(run)])


def _parts(run: list[Cell]) -> list[list[Cell]]:
    """A run that is too deep for one column, in about equal parts."""
    count = -(-len(run) // MAX_RANKS) if extent(run)[0] > MAX_RANKS else 1
    return [run[len(run) * i // count : len(run) * (i + 1) // count] for i in range(count)]


def extent(run: Sequence[Cell]) -> tuple[int, int]:
    """(cells on the longest path, most cells beside each other)."""
    levels = collections.Counter(ranks(run).values())
    return max(levels, default=0), max(levels.values(), default=0)


def ranks(run: Sequence[Cell]) -> dict[str, int]:
    """name -> cells on the longest path that ends there."""
    found: dict[str, int] = {}
    for cell in run:
        found[cell.name] = 1 + max((found.get(source, 0) for source in cell.inputs), default=0)
    return found


def titled(found: list[Block]) -> list[Block]:
    """Blocks with branches get the words that their cells' labels share, or a number where they share none."""
    number, result = 0, []
    every = _shared_words([cell.label for block in found for cell in block.cells])
    for block in found:
        title = ""
        if len(block.cells) > 1:
            number += 1
            words = _shared_words([cell.label for cell in block.cells])[len(every) :]
            title = "".join(words).strip("/_.: ") or f"block {number}"
        result.append(dataclasses.replace(block, title=title))
    return result


def _shared_words(names: Sequence[str]) -> list[str]:
    split = [re.findall(r"[^/_.:]+[/_.:]*|[/_.:]+", name) for name in names]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return shared if len(names) > 1 else shared[:-1]


def columns(found: Sequence[Block], count: int) -> list[list[Block]]:
    """Consecutive blocks in at most `count` columns whose tallest is as short as can be."""
    if not found:
        return []
    low, high = max((block.ranks for block in found), default=1), sum(block.ranks for block in found)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(found, middle)) <= count else (middle + 1, high)
    return _filled(found, low)


def _filled(found: Sequence[Block], limit: int) -> list[list[Block]]:
    filled: list[list[Block]] = [[]]
    for block in found:
        if filled[-1] and sum(other.ranks for other in filled[-1]) + block.ranks > limit:
            filled.append([])
        filled[-1].append(block)
    return filled


def spine(block: Block) -> set[tuple[str, str]]:
    """The edges of one longest path to the block's last cell: its main line. All others are shortcuts and side branches."""
    cells = {cell.name: cell for cell in block.cells}
    rank = ranks(block.cells)
    edges, name = set(), block.cells[-1].name
    while name in cells and cells[name].inputs:
        before = max(cells[name].inputs, key=lambda source: rank.get(source, 0))
        edges.add((before, name))
        name = before
    return edges
