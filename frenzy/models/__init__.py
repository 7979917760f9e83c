"""The networks: name -> builder of (num_classes, input_shape, **overrides) -> tf_keras.Model."""

from collections.abc import Callable
from functools import partial

import tf_keras as keras

from frenzy.models import frenzy

ZOO: dict[str, Callable[..., keras.Model]] = {
    "frenzy": frenzy.build,
    "frenzy_unpruned": partial(frenzy.build, frenzy.UNPRUNED, name="frenzy_unpruned"),
    "frenzy_small": partial(frenzy.build, frenzy.unpruned_rows((16, 32, 64)), name="frenzy_small"),
}


def build(name: str, num_classes: int, input_shape: tuple[int, int, int] = (32, 32, 3), **overrides) -> keras.Model:
    """A zoo network with fresh weights. Raises KeyError with the known names."""
    if name not in ZOO:
        raise KeyError(f"no network {name!r}; known: {', '.join(sorted(ZOO))}")
    return ZOO[name](num_classes=num_classes, input_shape=input_shape, **overrides)
