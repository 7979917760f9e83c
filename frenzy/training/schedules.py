"""Learning rates as pure functions of the step."""

import math


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
