"""What a search found, to look at: a table of decisions, the supernet's graph with what was cut, and fronts of several budgets."""

import csv
import dataclasses
import html
import io
import statistics
from collections.abc import Mapping, Sequence

import graphviz

from frenzy.compress.single_path import Decisions, cost
from frenzy.compress.single_path.decisions import choices
from frenzy.compress.single_path.graph import Network, Op
from frenzy.render import files, picture, units
from frenzy.render.colour import heat, ink
from frenzy.render.table import grid

BAR = 110  # points: the width of a whole layer's bar
GONE = "#e5e7eb"
SHOWN = frozenset({"add", "average_pool", "concat", "conv", "dense", "depthwise", "max_pool", "source"})


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def table(network: Network, decisions: Decisions, convention: str) -> str:
    """A line a searched layer: kernel, width, storage and operations with their shares of the found network; then all others."""
    costs = cost.costs(network, choices(network, decisions), convention)
    bits, operations = (float(sum(getattr(each, field) for each in costs.values())) for field in ("storage_bits", "operations"))
    others = cost.Cost(bits, operations)
    rows = []
    for name, decision in decisions.items():
        op, own = network.ops[name], costs[name]
        others = cost.Cost(others.storage_bits - own.storage_bits, others.operations - own.operations)
        rows.append((name, _kernel(op, decision.kernel), _change(op.channels, decision.width), own))
    rows.append(("all others", "", "", others))
    rows.append(("total", "", "", cost.Cost(bits, operations)))
    columns = {
        "node": [name for name, *_ in rows],
        "kernel": [kernel for _, kernel, _, _ in rows],
        "width": [width for _, _, width, _ in rows],
        "bytes": [f"{own.storage_bits / 8:,.0f}" for *_, own in rows],
        "of all": [_share(own.storage_bits, bits) for *_, own in rows],
        "operations": [f"{own.operations:,.0f}" for *_, own in rows],
        "of all ": [_share(own.operations, operations) for *_, own in rows],
    }
    return "\n".join([f"{network.name}, convention {convention}", "", *grid(columns, 100, ())]) + "\n"


def _kernel(op: Op, kernel: tuple[int, int]) -> str:
    return units.pair(kernel) if kernel == op.kernel else f"{units.pair(op.kernel)} -> {units.pair(kernel)}"


def _change(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} -> {after}"


# the picture


def draw(network: Network, decisions: Decisions, convention: str, path) -> None:
    """The supernet's graph, a bar a layer: dark what is left of its weights, grey what was cut. Raises RenderError."""
    picture.check(path)
    try:
        files.write(path, graphviz.pipe("dot", str(path).rsplit(".", 1)[1], source(network, decisions, convention).encode()))
    except graphviz.CalledProcessError as e:
        raise picture.RenderError(f"cannot draw {path}: dot failed ({' '.join(str(e).split())[:200]})") from None


def source(network: Network, decisions: Decisions, convention: str) -> str:
    """In graphviz's language; layers that cost next to nothing are left out, and their readers drawn at what they read."""
    whole = {name: choices(network, {name: _whole(network.ops[name])})[name] for name in decisions}
    before, after = cost.costs(network, whole, convention), cost.costs(network, choices(network, decisions), convention)
    total = float(sum(each.operations for each in after.values()))
    peak = max(float(each.operations) for each in after.values())
    head = f"{network.name}: {total:,.0f} of {float(sum(each.operations for each in before.values())):,.0f} operations ({convention})"
    lines = [
        "digraph found {",
        f'graph [label="{head}\\ndark: the weights that are left; grey: cut; colour: share of the operations", labelloc=t, '
        'fontname="Helvetica", bgcolor=white, nodesep=0.2, ranksep=0.25, dpi=96]',
        'node [shape=plain, fontname="Helvetica", fontsize=9]',
        'edge [color="#444444", arrowsize=0.6]',
    ]
    shown = [op for op in network.ops.values() if op.kind in SHOWN]
    ids = {op.name: f"n{number}" for number, op in enumerate(shown)}
    for op in shown:
        kept = (
            float(after[op.name].storage_bits) / float(before[op.name].storage_bits) if before[op.name].storage_bits else None
        )
        share = float(after[op.name].operations)
        lines.append(f"{ids[op.name]} [label=<{_box(op, decisions, kept, share / total, heat((share / peak) ** 0.5))}>]")
        lines += [f"{ids[end]} -> {ids[op.name]}" for read in op.reads for end in _shown(network, read)]
    return "\n".join([*lines, "}", ""])


def _whole(op: Op):
    from frenzy.compress.single_path import Decision

    return Decision(op.kernel, op.channels)


def _shown(network: Network, name: str) -> list[str]:
    op = network.ops[name]
    return [name] if op.kind in SHOWN else [end for read in op.reads for end in _shown(network, read)]


def _box(op: Op, decisions: Decisions, kept: float | None, share: float, colour: str) -> str:
    size = units.hwc((1, *op.shape))
    text = f"<B>{html.escape(op.name)}</B><BR/>"
    if op.name in decisions:
        decision = decisions[op.name]
        text += f"{_kernel(op, decision.kernel)}, width {_change(op.channels, decision.width)}".replace("->", "→")
    else:
        text += f"{op.kind.replace('_', ' ')} {size}"
    cells = f'<TR><TD COLSPAN="2"><FONT COLOR="{ink(colour)}">{text}<BR/>{share:.1%}</FONT></TD></TR>'
    if op.name in decisions and kept is not None:
        left = max(1, round(BAR * kept))
        bar = [(left, "#1f2937")] + ([(BAR - left, GONE)] if left < BAR else [])
        span = ' COLSPAN="2"' if len(bar) == 1 else ""
        drawn = "".join(f'<TD{span} WIDTH="{width}" HEIGHT="6" FIXEDSIZE="TRUE" BGCOLOR="{fill}"></TD>' for width, fill in bar)
        cells += f"<TR>{drawn}</TR>"
    return (
        f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2" BGCOLOR="{colour}" COLOR="#666666">{cells}</TABLE>'
    )


# fronts


@dataclasses.dataclass(frozen=True)
class Point:
    """One trained network of a sweep: `kind` is 'search' or 'uniform', `share` the budget's of the whole network."""

    kind: str
    share: float
    score: float
    operations: float
    storage_bytes: float
    top1: float
    n: int


AXES: Mapping[str, tuple[str, str]] = {  # objective -> (field of a point, what it is)
    "score": ("score", "score (storage + operations, shares of the challenge's baseline)"),
    "operations": ("operations", "32-bit operations an image"),
    "storage": ("storage_bytes", "bytes of weights"),
}


def front_csv(points: Sequence[Point]) -> str:
    """A line a network."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(point) for point in points)
    return text.getvalue()


def front_png(points: Sequence[Point], title: str, budget: str = "score") -> bytes:
    """Accuracy against what was budgeted (a key of AXES): what was searched for, and the same network made narrower alike.

    Of several seeds the mean is drawn, and every network as a point of its own.
    """
    from matplotlib.figure import Figure

    from frenzy.render.plots import BLUE, ORANGE

    field, label_of_axis = AXES[budget]
    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    styles: Mapping[str, tuple[str, str, str]] = {
        "search": (BLUE, "o", "found by search"),
        "uniform": (ORANGE, "s", "narrower alike"),
    }
    for kind, (colour, marker, label) in styles.items():
        own = [(point.share, getattr(point, field), 100 * point.top1) for point in points if point.kind == kind]
        if own:
            by_share = [[each for each in own if each[0] == share] for share in sorted({share for share, *_ in own})]
            means = [[statistics.mean(column) for column in zip(*some, strict=True)][1:] for some in by_share]
            axes.plot(*zip(*means, strict=True), color=colour, label=label)
            axes.plot(*zip(*(each[1:] for each in own), strict=True), color=colour, marker=marker, linestyle="none", alpha=0.6)
    axes.set(xlabel=label_of_axis, ylabel="top-1 accuracy, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
