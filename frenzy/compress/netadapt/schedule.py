"""How much is cut when: targets that shrink, and widths in multiples that meet them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from frenzy.compress.netadapt.channels import Candidate, Channels, Group
from frenzy.compress.tensors import CompressError

RANKS = ("accuracy", "ratio")
Resource = Callable[[Candidate], float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """`budget`: share of the network's resource to come down to; at most `iterations` steps. Step i plans `first` decay^(i-1) of
    the first network's resource. Widths are multiples of `multiple`; the best proposal is that of the highest accuracy, or of the
    least accuracy lost per resource saved ("ratio"). Raises CompressError."""

    budget: float
    iterations: int
    first: float = 0.025
    decay: float = 0.96
    multiple: int = 8
    rank: str = "accuracy"

    def __post_init__(self) -> None:
        for field in ("budget", "first"):
            if not 0 < (value := getattr(self, field)) < 1:
                raise CompressError(f"{field} is {value}; a share of the network's resource is above 0 and below 1")
        if not 0 < self.decay <= 1:
            raise CompressError(f"decay is {self.decay}; it must be above 0 and at most 1")
        for field in ("iterations", "multiple"):
            if (value := getattr(self, field)) < 1:
                raise CompressError(f"{field} is {value}; it must be 1 or more")
        if self.rank not in RANKS:
            raise CompressError(f"rank is {self.rank!r}; allowed: {', '.join(RANKS)}")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A group, what is left of it, and the network's resource then."""

    group: Group
    kept: int
    resource: float
    candidate: Candidate


def planned(settings: Settings, iterations: int) -> float:
    """Share of the first resource that so many steps plan to save: first (1 + decay + decay^2 + ...)."""
    return sum(settings.first * settings.decay**i for i in range(iterations))


def target(settings: Settings, initial: float, before: float, iteration: int) -> float:
    """What iteration i (from 1) comes down to: resource_(i-1) - first decay^(i-1) resource_0, and no lower than the budget."""
    step = settings.first * settings.decay ** (iteration - 1) * initial
    return max(before - step, settings.budget * initial)


def widths(count: int, multiple: int) -> list[int]:
    """What can be left of a group of `count` channels, most first: 20 by 8 -> [16, 8]; one of 8 or fewer stays."""
    return list(range((count - 1) // multiple * multiple, 0, -multiple))


def strongest(group: Group, norms: np.ndarray, kept: int) -> list[int]:
    """The classes that go: all but the `kept` of the largest norm; of equals the first stay."""
    order = sorted(group.classes, key=lambda each: (-norms[each], each))
    return sorted(order[kept:])


def floor(channels: Channels, norms: np.ndarray, multiple: int) -> Candidate:
    """The network with every group as narrow as it can be."""
    gone = []
    for group in channels.groups:
        if possible := widths(len(group.classes), multiple):
            gone += strongest(group, norms, possible[-1])
    return Candidate(channels, channels.without(gone))


def _weighed(channels: Channels, group: Group, norms: np.ndarray, kept: int, resource: Resource) -> Proposal:
    candidate = Candidate(channels, channels.without(strongest(group, norms, kept)))
    return Proposal(group, kept, float(resource(candidate)), candidate)


def proposal(
    channels: Channels, group: Group, norms: np.ndarray, goal: float, multiple: int, resource: Resource
) -> Proposal | None:
    """The group cut to as many channels as meet the goal; None where the fewest do not.

    Bisected, as resources fall with widths; where a measured one does not quite, what is found meets the goal, and one step wider
    does not.
    """
    possible = widths(len(group.classes), multiple)
    if not possible:
        return None
    best = _weighed(channels, group, norms, possible[-1], resource)
    if best.resource > goal:
        return None
    low, high = 0, len(possible) - 1  # possible[high] meets it
    while low < high:
        middle = (low + high) // 2
        found = _weighed(channels, group, norms, possible[middle], resource)
        if found.resource <= goal:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def proposals(channels: Channels, goal: float, multiple: int, resource: Resource) -> list[Proposal]:
    """One for every group that can meet the goal. Raises CompressError where none can."""
    norms = channels.norms()
    found = [proposal(channels, group, norms, goal, multiple, resource) for group in channels.groups]
    met = [each for each in found if each is not None]
    if not met:
        names = ", ".join(group.name for group in channels.groups[:4])
        raise CompressError(
            f"no group of layers alone brings the resource down to {goal:.6g}, each cut to {multiple} channels ({names}, ...); "
            "plan smaller steps, or a larger budget"
        )
    return met


def check_reach(channels: Channels, settings: Settings, initial: float, resource: Resource) -> None:
    """Raises CompressError for a resource that does not shrink, and for a budget below what cutting can reach."""
    if not channels.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(channels.locked.items())[:3])
        raise CompressError(f"{channels.model.name} has no channels that can be cut ({reasons})")
    least = float(resource(floor(channels, channels.norms(), settings.multiple)))
    if not least < initial:
        raise CompressError(
            f"the resource does not shrink: it is {initial:.6g}, and {least:.6g} with every group cut to {settings.multiple} "
            "channels; choose another resource"
        )
    if least > settings.budget * initial:
        raise CompressError(
            f"budget {settings.budget:g} is {settings.budget * initial:.6g}, below the {least:.6g} ({least / initial:.1%}) that are "
            f"left with every group cut to {settings.multiple} channels; ask for {least / initial + 0.005:.2f} or more"
        )


def lost_per_saved(accuracy: float, before: float, resource: float, resource_before: float) -> float:
    """Accuracy lost per resource saved, of one step."""
    return (before - accuracy) / (resource_before - resource)


def best(done: Sequence[dict], settings: Settings, accuracy_before: float, resource_before: float) -> dict:
    """Of proposals {accuracy, resource, ...} the one to keep; of equals the smaller, then the first."""

    def order(each: dict) -> tuple[float, float]:
        if settings.rank == "accuracy":
            return -each["accuracy"], each["resource"]
        return lost_per_saved(each["accuracy"], accuracy_before, each["resource"], resource_before), each["resource"]

    return min(done, key=order)
