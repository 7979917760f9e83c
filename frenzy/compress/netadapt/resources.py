"""What a network takes that can be told from its layers alone: multiply-accumulates and parameters."""

import math
from collections.abc import Sequence

from frenzy.compress.netadapt.channels import Layer

STATISTICS = ("moving_mean", "moving_variance")


def parameters(layers: Sequence[Layer]) -> int:
    """Trainable parameters: every weight but the statistics of BN."""
    return sum(math.prod(shape) for layer in layers for name, shape in layer.weights.items() if name not in STATISTICS)


def layer_macs(layer: Layer) -> int:
    """One image's: every kernel element once at each place of the output; conditional kernels their mixing besides."""
    places = math.prod(side or 1 for side in layer.output[1:-1])
    kernels = sum(math.prod(shape) for name, shape in layer.weights.items() if name.endswith("kernel"))
    if layer.entry["class_name"].startswith("Cond"):
        experts = layer.entry["config"]["experts"]
        return kernels + kernels // experts * places
    return kernels * places if layer.entry["class_name"].endswith("Conv2D") else kernels


def multiply_accumulates(layers: Sequence[Layer]) -> int:
    """One image's, of convs, dense layers and gates, as frenzy.models.macs counts a network that is built."""
    return sum(map(layer_macs, layers))
