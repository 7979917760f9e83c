"""Whether a graph gives what the original gives, on random inputs of two batch sizes."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from frenzy.export import MAX_DIFFERENCE
from frenzy.optimize.network import Input, Network, OptimizeError

BATCHES = (1, 3)

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs of one signature by key, and what the original gives for them."""

    entry: str
    inputs: tuple[Arrays, ...]
    outputs: tuple[Arrays, ...]


def _random(each: Input, batch: int, random: np.random.Generator) -> np.ndarray:
    """Pixels for 8-bit inputs, a normal distribution for real ones, else zeros and ones."""
    shape = tuple(batch if dim is None else dim for dim in each.shape)
    dtype = tf.as_dtype(each.dtype).as_numpy_dtype
    if tf.as_dtype(each.dtype).is_floating:
        return random.normal(size=shape).astype(dtype)
    return random.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def images_for(network: Network) -> Arrays:
    """Two random images, or as many as the signature takes."""
    random = np.random.default_rng(0)
    return {key: _random(each, 2, random) for key, each in network.inputs.items()}


def called(loaded, entry: str) -> Callable[[Arrays], Arrays]:
    """A signature of a loaded SavedModel, arrays in and arrays out."""

    def run(inputs: Arrays) -> Arrays:
        found = loaded.signatures[entry](**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in found.items()}

    return run


def interpreted(network: Network) -> Callable[[Arrays], Arrays]:
    """The graph as it is rewritten so far."""

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(network.outputs, network.run(list(network.outputs.values()), inputs), strict=True))

    return run


def sample(loaded, network: Network) -> Samples:
    """What the original gives for random inputs. Raises OptimizeError where it does not run."""
    random = np.random.default_rng(1)
    batches = BATCHES if any(None in each.shape for each in network.inputs.values()) else (1,)
    inputs = tuple({key: _random(each, batch, random) for key, each in network.inputs.items()} for batch in batches)
    try:
        outputs = tuple(map(called(loaded, network.entry), inputs))
    except (tf.errors.OpError, ValueError, TypeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise OptimizeError(f"{network.folder}: signature '{network.entry}' does not run here ({reason})") from None
    return Samples(network.entry, inputs, outputs)


def difference(samples: Samples, run: Callable[[Arrays], Arrays], bound: bool = True) -> float:
    """The largest difference of a real output. Raises OptimizeError where it is above 1e-4 of the output's size, if that binds."""
    worst = 0.0
    for inputs, wanted in zip(samples.inputs, samples.outputs, strict=True):
        try:
            found = run(inputs)
        except (tf.errors.OpError, ValueError) as e:
            reason = " ".join(str(e).split())[:200]
            raise OptimizeError(f"signature '{samples.entry}' does not run once it is rewritten ({reason})") from None
        for key, value in wanted.items():
            if value.shape != found[key].shape:
                raise OptimizeError(f"output '{key}' of '{samples.entry}' was {value.shape} and would be {found[key].shape}")
            if value.dtype.kind != "f" or not value.size:
                continue
            apart = float(np.abs(value - found[key]).max())
            allowed = MAX_DIFFERENCE * max(1.0, float(np.abs(value).max()) / 10)  # as the exporter's: float32 is no finer
            if bound and not apart <= allowed:  # also where it is not a number
                raise OptimizeError(
                    f"output '{key}' of '{samples.entry}' would differ by {apart:g}, more than {allowed:g}; nothing is written"
                )
            worst = max(worst, apart)
    return worst
