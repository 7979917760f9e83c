"""What tests of searches share: a small supernet, and decisions drawn for every conv."""

from frenzy.compress.single_path import (
    Decision,
)
from frenzy.models import frenzy


def any_decisions(net, random):
    return {
        name: Decision(
            tuple(int(random.choice(range(whole % 2, whole + 1, 2))) for whole in layer.kernel_size)
            if layer.search_kernel
            else layer.kernel_size,
            int(random.choice(layer.widths)),
        )
        for name, layer in net.layers.items()
    }


def small():
    return frenzy.build(frenzy.unpruned_rows((10, 20), 1), 10, (8, 8, 3), symmetric_padding=True)
