"""The last step of a search: the decisions brought to the budget, never above it, by what the norms say is worth least.

One move takes away, or puts back, the outermost option of one decision of one layer. First that is cut whose margin rho - t, for
what it saves, is smallest, until the budget is met; then what was wanted most comes back, as long as it fits. Where more than 3 %
of the budget is left then, one cut is exchanged for something larger, if there is such a pair.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

from frenzy.compress.single_path.decisions import Decision
from frenzy.compress.single_path.objective import Objective
from frenzy.compress.single_path.supernet import Supernet
from frenzy.compress.tensors import CompressError
from frenzy.layers.indicators import Indicators

CLOSE = 0.97  # of the budget


@dataclasses.dataclass(frozen=True)
class Move:
    """A layer's other decision, and the margin of the option that goes or comes."""

    layer: str
    decision: Decision
    margin: float


def moves(net: Supernet, decisions: Mapping[str, Decision], margins: Mapping[str, Indicators], up: bool) -> Iterator[Move]:
    """What can be put back (`up`) or taken away, one option of one layer each."""
    for name, decision in decisions.items():
        layer, (height, width) = net.layers[name], decision.kernel
        step = 1 if up else -1
        if layer.search_kernel:
            for side, whole, margin, other in (
                (height, layer.kernel_size[0], margins[name].rows, (height + 2 * step, width)),
                (width, layer.kernel_size[1], margins[name].columns, (height, width + 2 * step)),
            ):
                if 1 <= side + 2 * step <= whole:
                    yield Move(name, Decision(other, decision.width), float(margin[max(side, side + 2 * step) // 2 - 1]))
        at = layer.widths.index(decision.width)
        if 0 <= at + step < len(layer.widths):
            yield Move(
                name, Decision(decision.kernel, layer.widths[at + step]), float(margins[name].width[max(at, at + step) - 1])
            )


def repair(net: Supernet, objective: Objective, budget: float) -> tuple[dict[str, Decision], list[str]]:
    """The supernet's decisions, brought below the budget and up to it again; and a line for every move.

    Raises CompressError where nothing is left to cut.
    """
    found = _Repair(net, objective, budget)
    found.cut()
    found.put_back()
    if found.now < CLOSE * budget:
        found.exchange()
    return found.decisions, found.log


class _Repair:
    """Decisions on their way, what they cost, and what was done."""

    def __init__(self, net: Supernet, objective: Objective, budget: float):
        self.net, self.objective, self.budget = net, objective, budget
        self.decisions, self.margins, self.log = net.decisions(), net.margins(), list[str]()
        self.now = objective.of(net.network, self.decisions)

    def cost(self, *done: Move) -> float:
        """What the network costs after moves of different layers."""
        return self.objective.of(self.net.network, {**self.decisions, **{move.layer: move.decision for move in done}})

    def moves(self, up: bool) -> list[Move]:
        """What can be done, the best liked first."""
        return sorted(moves(self.net, self.decisions, self.margins, up), key=lambda move: (-move.margin, move.layer))

    def take(self, what: str, move: Move, cost: float) -> None:
        old, new = self.decisions[move.layer], move.decision
        self.log.append(f"{what} {move.layer}: {_text(old)} -> {_text(new)}; {self.objective.text(cost)}")
        self.decisions[move.layer], self.now = new, cost

    def cut(self) -> None:
        while self.now > self.budget:
            saving = {move: cost for move in self.moves(up=False) if (cost := self.cost(move)) < self.now}
            if not saving:
                reached = self.objective.text(self.now)
                raise CompressError(
                    f"{self.objective.text(self.budget)} cannot be reached: nothing is left to cut at {reached}"
                )
            best = min(saving, key=lambda move: (move.margin / math.log(self.now / saving[move]), move.layer))
            self.take("cut", best, saving[best])

    def put_back(self) -> None:
        while found := self.first((move,) for move in self.moves(up=True)):
            (move,), cost = found
            self.take("put back", move, cost)

    def exchange(self) -> None:
        """The pair of a cut and something put back that leaves less than 3 % of the budget, and that the norms like best."""
        pairs = [(down, up) for down in self.moves(up=False) for up in self.moves(up=True) if down.layer != up.layer]
        pairs.sort(key=lambda pair: (pair[0].margin - pair[1].margin, pair[0].layer, pair[1].layer))
        if found := self.first(pairs, CLOSE * self.budget):
            (down, up), cost = found
            self.take("exchanged", down, self.cost(down))
            self.take("for", up, cost)

    def first(self, candidates: Iterable[tuple[Move, ...]], least: float = 0.0) -> tuple[tuple[Move, ...], float] | None:
        """The first moves that cost more than now, at least `least`, and no more than the budget; and what that is."""
        for done in candidates:
            cost = self.cost(*done)
            if max(self.now, least) < cost <= self.budget:
                return done, cost
        return None


def _text(decision: Decision) -> str:
    return f"{decision.kernel[0]}x{decision.kernel[1]} {decision.width}"
