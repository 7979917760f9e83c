"""What a found network is held against: the same network with every layer made narrower alike, and no kernel cut."""

from frenzy.compress.single_path.decisions import Decision
from frenzy.compress.single_path.graph import Network
from frenzy.compress.single_path.objective import Objective
from frenzy.compress.tensors import CompressError

STEPS = 12  # halvings of the multiplier's interval


def scaled(network: Network, names, multiplier: float) -> dict[str, Decision]:
    """Every layer of `multiplier` times its channels, rounded, at least one."""
    found = {}
    for name in names:
        op = network.ops[name]
        kept = op.channels if network.why_not_width(name) else max(1, int(op.channels * multiplier + 0.5))
        found[name] = Decision(op.kernel, kept)
    return found


def uniform(network: Network, names, objective: Objective, budget: float) -> tuple[float, dict[str, Decision]]:
    """The largest multiplier, to 1 / 4096, whose network meets the budget, and its decisions. Raises CompressError."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if objective.of(network, scaled(network, names, middle)) <= budget:
            low = middle
        else:
            high = middle
    decisions = scaled(network, names, low)
    if objective.of(network, decisions) > budget:
        raise CompressError(f"no width of {network.name} meets {objective.text(budget)}; ask for more")
    return low, decisions
