"""Which weights of a network are compressed, and how their shapes are read."""

import dataclasses
import math
import re

import numpy as np
import tf_keras as keras

from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D

SHOWN = 4  # names in an error


class CompressError(ValueError):
    """A network or an option that a method cannot take; the message is one line with the next step."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A kernel of a network: the layer's name, the weight's in it, its shape."""

    layer: str
    weight: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.weight}"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Kernels whose "layer/weight" the regular expression is found in, of more elements and at least as many axes."""

    pattern: str = "kernel$"
    more_than: int = 0
    least_rank: int = 2

    def takes(self, tensor: Tensor) -> bool:
        fits = tensor.size > self.more_than and len(tensor.shape) >= self.least_rank
        return fits and re.search(self.pattern, tensor.name) is not None


IN_BLOCKS = Rule(r"^(block|fire|group|row)\d.*kernel$", more_than=1000)  # MicroBotNet notes: convs and SE dense in the blocks
EVERY_CONV = Rule(least_rank=4)
EVERY_KERNEL = Rule()


def short_name(variable) -> str:
    """ "block1/kernel:0" -> "kernel"."""
    return variable.name.split(":")[0].rsplit("/", 1)[-1]


def kernels(model: keras.Model) -> list[Tensor]:
    """The weights of convs, dense layers and squeeze-and-excite, in the order of the layers."""
    return [
        Tensor(layer.name, short_name(variable), tuple(variable.shape))
        for layer in model.layers
        for variable in layer.weights
        if short_name(variable).endswith("kernel")
    ]


def select(model: keras.Model, rule: Rule) -> list[Tensor]:
    """The kernels that a rule takes. Raises CompressError where it takes none or its pattern is no regular expression."""
    try:
        re.compile(rule.pattern)
    except re.error as e:
        raise CompressError(f"tensors {rule.pattern!r} is no regular expression: {e}; 'block.*kernel$' is one") from None
    there = kernels(model)
    found = [tensor for tensor in there if rule.takes(tensor)]
    if not found:
        names = ", ".join(tensor.name for tensor in there[:SHOWN]) or "none"
        more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
        raise CompressError(
            f"{model.name}: no tensor of more than {rule.more_than} elements and {rule.least_rank} axes or more matches "
            f"{rule.pattern!r}; its kernels are {names}{more}: choose some by --tensors REGEX"
        )
    return found


def value(model: keras.Model, tensor: Tensor) -> np.ndarray:
    """The tensor's weights, of its shape."""
    return next(v.numpy() for v in model.get_layer(tensor.layer).weights if short_name(v) == tensor.weight)


def variable_name(weight: str, role: str) -> str:
    """ "reduce_kernel", "state" -> "reduce_state": no name of a kernel, so that weight decay leaves it alone."""
    return f"{weight.removesuffix('kernel')}{role}"


def _of_one_expert(layer: keras.layers.Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if isinstance(layer, CondConv2D | CondDepthwiseConv2D) else shape


def fan_in(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """How many products an output of a layer's kernel sums."""
    shape = _of_one_expert(layer, shape)
    if isinstance(layer, keras.layers.DepthwiseConv2D | CondDepthwiseConv2D):
        return math.prod(shape[:2])
    return math.prod(shape[:-1])


def channel_axis(layer: keras.layers.Layer, rank: int) -> int:
    """The axis of a kernel that tells its outputs apart."""
    return rank - 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else rank - 1
