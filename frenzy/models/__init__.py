"""The networks by name: `build("microbotnet_x0.32")` gives a tf_keras.Model of logits with fresh weights."""

import dataclasses
from collections.abc import Callable
from functools import partial

import tf_keras as keras

from frenzy.models import alexnet, frenzy, irnet, microbotnet, mobilenet, resnet, squeezenet, wide_resnet
from frenzy.models.arrays import from_torch, load_arrays, save_arrays, transfer

Shape = tuple[int, int, int]

CIFAR: Shape = (32, 32, 3)
TINY_IMAGENET: Shape = (56, 56, 3)
IMAGENET: Shape = (224, 224, 3)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network of the zoo: builder(num_classes, input_shape, name, **overrides), where it comes from, what it was made for."""

    builder: Callable[..., keras.Model]
    source: str
    input_shape: Shape = CIFAR
    num_classes: int = 100


class UnknownNetworkError(KeyError):
    """No network of that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would quote it


def _microbotnet(multiplier: float) -> Entry:
    return Entry(partial(microbotnet.build, multiplier), "MicroBotNet notes, 2020", num_classes=10)


def _wide(rows: wide_resnet.Rows, source: str) -> Entry:
    return Entry(partial(wide_resnet.build, rows), source)


def _mcdonnell(blocks: int, k: int) -> Entry:
    return Entry(partial(wide_resnet.build_mcdonnell, wide_resnet.mcdonnell_rows(blocks, k)), "arXiv 1802.08530")


def _irnet(kind: str, input_shape: Shape) -> Entry:
    return Entry(partial(irnet.build, irnet.of_kind(kind)), "IR-NET, table 1", input_shape)


def _imagenet(builder: Callable[..., keras.Model], source: str) -> Entry:
    return Entry(builder, source, IMAGENET, 1000)


def _delayed(builder: Callable[..., keras.Model], source: str) -> Entry:
    """An ImageNet network for 32x32: its first two stride-2 steps have stride 1."""
    return Entry(partial(builder, delay=2), source, CIFAR, 10)


_MOBILENETS = {
    "mobilenet_v1": (partial(mobilenet.build_separable, mobilenet.V1), "arXiv 1704.04861"),
    "mobilenet_v1_x0.25": (partial(mobilenet.build_separable, mobilenet.V1, 0.25), "arXiv 1704.04861"),
    "mobilenet_v2": (partial(mobilenet.build_inverted, mobilenet.V2), "arXiv 1801.04381"),
    "mobilenet_v3_large": (partial(mobilenet.build_inverted, mobilenet.V3_LARGE), "arXiv 1905.02244"),
    "mobilenet_v3_small": (partial(mobilenet.build_inverted, mobilenet.V3_SMALL), "arXiv 1905.02244"),
    "fd_mobilenet": (partial(mobilenet.build_separable, mobilenet.FD), "arXiv 1802.03750"),
    "fd_mobilenet_x0.25": (partial(mobilenet.build_separable, mobilenet.FD, 0.25), "arXiv 1802.03750"),
}

_SQUEEZENETS = {
    "squeezenet_1_0": squeezenet.VERSION_1_0,
    "squeezenet_1_1": squeezenet.VERSION_1_1,
    "squeezenet_simple_bypass": squeezenet.with_bypass(squeezenet.VERSION_1_0, convs=False),
    "squeezenet_complex_bypass": squeezenet.with_bypass(squeezenet.VERSION_1_0, convs=True),
}

ZOO: dict[str, Entry] = {
    "frenzy": Entry(frenzy.build, "Frenzy, Arm, 2019"),
    "frenzy_unpruned": Entry(partial(frenzy.build, frenzy.UNPRUNED), "Frenzy, Arm, 2019"),
    "frenzy_small": Entry(partial(frenzy.build, frenzy.unpruned_rows((16, 32, 64))), "frenzy_unpruned, narrow"),
    "wrn_28_10": _wide(wide_resnet.WRN_28_10, "MicroNet's baseline"),
    "wrn_22_6": _wide(wide_resnet.WRN_22_6, "Micronet - Cifar100, 2019"),
    "wrn_22_6_fastai": _wide(wide_resnet.FASTAI_22_6, "fastai 1.0, wrn.py"),
    "mcdonnell_20_4": _mcdonnell(blocks=3, k=4),
    "mcdonnell_20_10": _mcdonnell(blocks=3, k=10),
    "mcdonnell_26_10": _mcdonnell(blocks=4, k=10),
    **{f"irnet_{kind.lower()}": _irnet(kind, TINY_IMAGENET) for kind in irnet.KINDS},
    **{f"irnet_{kind.lower()}_cifar": _irnet(kind, CIFAR) for kind in irnet.KINDS},
    **{f"microbotnet_x{multiplier:.2f}": _microbotnet(multiplier) for multiplier in (1.0, 0.5, 0.32, 0.25)},
    **{name: _imagenet(builder, source) for name, (builder, source) in _MOBILENETS.items()},
    **{f"{name}_cifar": _delayed(builder, source) for name, (builder, source) in _MOBILENETS.items() if "_x" not in name},
    **{name: _imagenet(partial(squeezenet.build, rows), "arXiv 1602.07360") for name, rows in _SQUEEZENETS.items()},
    **{f"{name}_cifar": _delayed(partial(squeezenet.build, rows), "arXiv 1602.07360") for name, rows in _SQUEEZENETS.items()},
    **{
        f"resnet_{depth}": Entry(partial(resnet.build, resnet.cifar(depth)), "arXiv 1512.03385", num_classes=10)
        for depth in (20, 32, 44, 56)
    },
    "resnet_18": _imagenet(partial(resnet.build, resnet.RESNET_18), "arXiv 1512.03385"),
    "resnet_18_cifar": Entry(partial(resnet.build, resnet.RESNET_18_CIFAR), "arXiv 1512.03385", num_classes=10),
    "alexnet": _imagenet(partial(alexnet.build, alexnet.IMAGENET), "arXiv 1404.5997"),
    "alexnet_cifar": Entry(partial(alexnet.build, alexnet.CIFAR), "arXiv 1404.5997", num_classes=10),
}


def build(name: str, /, num_classes: int | None = None, input_shape: tuple[int, ...] | None = None, **overrides) -> keras.Model:
    """A zoo network with fresh weights, of the entry's own classes and input where none are given.

    Overrides go to the family's builder: dropout=0.1, say. Raises UnknownNetworkError, a KeyError, with the known names.
    """
    if name not in ZOO:
        raise UnknownNetworkError(f"no network {name!r}; known: {', '.join(sorted(ZOO))}")
    entry = ZOO[name]
    return entry.builder(
        num_classes=num_classes or entry.num_classes,
        input_shape=input_shape or entry.input_shape,
        **{"name": name, **overrides},
    )


__all__ = ["ZOO", "Entry", "UnknownNetworkError", "build", "from_torch", "load_arrays", "save_arrays", "transfer"]
