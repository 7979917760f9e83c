"""Learning rates and momenta as pure functions of the step."""

import dataclasses
import math
from collections.abc import Callable


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(
    step: int, steps: int, peak: float, warm_up: float = 0.3, start_ratio: float = 25.0, end_ratio: float = 25e4
) -> float:
    """fastai's one-cycle rate at `step` of `steps`: a cosine from peak / start_ratio up to peak, then down to peak / end_ratio."""
    rise = warm_up * steps
    if step < rise:
        return _cosine(peak / start_ratio, peak, step / rise)
    return _cosine(peak, peak / end_ratio, (step - rise) / max(steps - rise, 1))


def one_cycle_momentum(step: int, steps: int, high: float, low: float, warm_up: float = 0.3) -> float:
    """One-cycle's momentum: from `high` down to `low` where the rate peaks, then back."""
    rise = warm_up * steps
    if step < rise:
        return _cosine(high, low, step / rise)
    return _cosine(low, high, (step - rise) / max(steps - rise, 1))


def linear_then_cosine(step: int, steps: int, peak: float, warm_up: float, start: float, end: float) -> float:
    """A straight line from `start` of peak to peak over the share `warm_up` of the steps, then a cosine to `end` of it."""
    rise = warm_up * steps
    if step < rise:
        return peak * (start + (1 - start) * step / rise)
    return _cosine(peak, end * peak, (step - rise) / max(steps - rise, 1))


def restart_lengths(epochs: int, first: int = 2) -> tuple[int, ...]:
    """Lengths of cycles that double from `first`: 126 epochs are 2, 4, 8, 16, 32 and 64; what is left over is cut off."""
    lengths: list[int] = []
    length = first
    while sum(lengths) < epochs:
        lengths.append(min(length, epochs - sum(lengths)))
        length *= 2
    return tuple(lengths)


def warm_restarts(step: int, steps: int, epochs: int, peak: float, end_ratio: float = 1000.0) -> float:
    """McDonnell, arXiv 1802.08530, after SGDR (1608.03983): cosines of 2, 4, 8 … epochs, each from peak to peak / end_ratio."""
    epoch = step * epochs / steps
    begin = 0
    for length in restart_lengths(epochs):
        if epoch < begin + length:
            break
        begin += length
    return _cosine(peak, peak / end_ratio, min((epoch - begin) / length, 1.0))


def steps_down(step: int, steps: int, peak: float, at: tuple[float, ...], factor: float = 0.1) -> float:
    """peak, times `factor` after each of these shares of the steps."""
    return peak * factor ** sum(step >= share * steps for share in at)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """rate(step, steps, epochs, peak) and momentum(step, steps, high, low); the source."""

    rate: Callable[[int, int, int, float], float]
    source: str
    momentum: Callable[[int, int, float, float], float] = lambda step, steps, high, low: high


SCHEDULES = {
    "constant": Schedule(lambda step, steps, epochs, peak: peak, "no schedule"),
    "cosine": Schedule(lambda step, steps, epochs, peak: _cosine(peak, 0.0, step / steps), "half a cosine from the peak to 0"),
    "irnet": Schedule(
        lambda step, steps, epochs, peak: linear_then_cosine(step, steps, peak, 5 / 55, 0.01, 0.001),
        "IR-NET, table 2: 5 epochs up from 0.01 of the peak, 50 down to 0.001 of it (line and half cosine, as RegNet's)",
    ),
    "linear_cosine": Schedule(
        lambda step, steps, epochs, peak: linear_then_cosine(step, steps, peak, 0.2, 0.1, 0.0),
        "a linear warm-up from a tenth over a fifth of the run, then a cosine to 0",
    ),
    "one_cycle": Schedule(
        lambda step, steps, epochs, peak: one_cycle(step, steps, peak), "fastai, after arXiv 1803.09820", one_cycle_momentum
    ),
    "step": Schedule(
        lambda step, steps, epochs, peak: steps_down(step, steps, peak, (0.3, 0.6, 0.9)),
        "200 epochs, a tenth after 60, 120 and 180",
    ),
    "step_half": Schedule(
        lambda step, steps, epochs, peak: steps_down(step, steps, peak, (0.5, 0.75)),
        "He et al., arXiv 1512.03385, section 4.2: a tenth after half and three quarters of the updates",
    ),
    "warm_restarts": Schedule(
        lambda step, steps, epochs, peak: warm_restarts(step, steps, epochs, peak), "McDonnell, arXiv 1802.08530"
    ),
}
