"""Two reports -> what changed, node by node, and by how much in all: what did compression buy?

Nodes are matched by name and op first, then by op and name inside the scope that each network shares. What remains is matched by
op, in the order of the graph, where the spatial sizes agree, such that shapes and kernels agree as often as they can. What finds
no partner is only before, or only after; so the changes add up to the change of the totals, whatever the two networks are.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from frenzy.accounting.report import Report, Row
from frenzy.render.groups import METRICS, OTHERS, Sums
from frenzy.render.names import shared_scope

NAME, PLACE, BEFORE, AFTER = "name", "place", "before", "after"  # what a change was matched by, or where alone it is
BEST = 4  # what two nodes of the same op, shapes and kernel are worth to each other


@dataclasses.dataclass(frozen=True)
class Change:
    """A node before and after, or several summed. A name is None, and its sums are zeros, where there is no such node."""

    match: str
    op: str
    names: tuple[str | None, str | None]
    before: Sums
    after: Sums

    @property
    def difference(self) -> Sums:
        return self.after.minus(self.before)

    @property
    def costs(self) -> bool:
        return any(dataclasses.astuple(self.before) + dataclasses.astuple(self.after))


@dataclasses.dataclass(frozen=True)
class Diff:
    """Two reports under one convention, and their changes; `others` sums those that are not listed, None without any."""

    before: Report
    after: Report
    changes: tuple[Change, ...]
    others: Change | None = None
    left_out: int = 0

    @property
    def whole(self) -> Change:
        return Change(NAME, "", (None, None), Sums.of([self.before.totals]), Sums.of([self.after.totals]))


def diff(before: Report, after: Report, top: int | None = None, metric: str = "operations") -> Diff:
    """All changes in the order of the graphs, or the `top` largest by a metric of METRICS and the rest as one."""
    changes = [_change(*pair) for pair in _in_order(before.rows, after.rows, partners(before.rows, after.rows))]
    if top is None:
        return Diff(before, after, tuple(changes))
    fields = dict.fromkeys((METRICS[metric], "operations", "storage_bytes"))
    changes.sort(key=lambda change: [abs(getattr(change.difference, field)) for field in fields], reverse=True)
    rest = changes[top:]
    return Diff(before, after, tuple(changes[:top]), _summed(rest) if rest else None, len(rest))


def partners(before: Sequence[Row], after: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """name before -> (name after, what matched them); no name stands twice on either side."""
    found: dict[str, tuple[str, str]] = {}

    def rest(rows: Sequence[Row], side: int) -> list[Row]:
        taken = {(name, pair[0])[side] for name, pair in found.items()}
        return [row for row in rows if row.name not in taken]

    for scopes in (("", ""), tuple(shared_scope([row.name for row in rows]) for rows in (before, after))):
        there = {(row.op, row.name.removeprefix(scopes[1])): row.name for row in reversed(rest(after, 1))}
        for row in rest(before, 0):
            if partner := there.pop((row.op, row.name.removeprefix(scopes[0])), None):
                found[row.name] = (partner, NAME)
    old, new = rest(before, 0), rest(after, 1)
    for op in dict.fromkeys(row.op for row in old):
        pairs = aligned([row for row in old if row.op == op], [row for row in new if row.op == op])
        found.update({name: (partner, PLACE) for name, partner in pairs.items()})
    return found


def aligned(before: Sequence[Row], after: Sequence[Row]) -> dict[str, str]:
    """name -> name of rows of one op: no two pairs cross, and they are worth the most in all (weighted common subsequence)."""
    start = 0
    while start < min(len(before), len(after)) and worth(before[start], after[start]) == BEST:
        start += 1
    found = {a.name: b.name for a, b in zip(before[:start], after[:start], strict=True)}
    before, after = before[start:], after[start:]
    most = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]  # worth of the best pairing of before[i:] and after[j:]
    for i in reversed(range(len(before))):
        for j in reversed(range(len(after))):
            pair = worth(before[i], after[j])
            most[i][j] = max(most[i + 1][j], most[i][j + 1], pair and pair + most[i + 1][j + 1])
    i = j = 0
    while i < len(before) and j < len(after):
        pair = worth(before[i], after[j])
        if pair and most[i][j] == pair + most[i + 1][j + 1]:
            found[before[i].name] = after[j].name
            i, j = i + 1, j + 1
        elif most[i][j] == most[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def worth(before: Row, after: Row) -> int:
    """How much two rows of one op are alike: 0 if their outputs' spatial sizes differ, up to BEST if nothing does."""
    if before.output_shape[:-1] != after.output_shape[:-1]:
        return 0
    same_channels = before.output_shape == after.output_shape
    return 1 + same_channels + (before.input_shapes == after.input_shapes) + (before.kernel == after.kernel)


def _in_order(
    before: Sequence[Row], after: Sequence[Row], found: Mapping[str, tuple[str, str]]
) -> list[tuple[str, Row | None, Row | None]]:
    """(match, row before, row after): as the nodes stand before; what is only after follows what it follows there."""
    origin = {partner: name for name, (partner, _) in found.items()}
    at = {row.name: index for index, row in enumerate(before)}
    there = {row.name: row for row in after}
    keyed: list[tuple[tuple[int, int], tuple[str, Row | None, Row | None]]] = []
    for index, row in enumerate(before):
        partner, match = found.get(row.name, (None, BEFORE))
        keyed.append(((index, -1), (match, row, there[partner] if partner is not None else None)))
    place = -1
    for index, row in enumerate(after):
        if row.name in origin:
            place = at[origin[row.name]]
        else:
            keyed.append(((place, index), (AFTER, None, row)))
    return [pair for _, pair in sorted(keyed, key=lambda item: item[0])]


def _change(match: str, before: Row | None, after: Row | None) -> Change:
    old, new = ([row] if row else [] for row in (before, after))
    names = (before.name if before else None, after.name if after else None)
    return Change(match, (old + new)[0].op, names, Sums.of(old), Sums.of(new))


def _summed(changes: Sequence[Change]) -> Change:
    sums = (Sums.of(change.before for change in changes), Sums.of(change.after for change in changes))
    return Change(OTHERS, "", (None, None), *sums)
