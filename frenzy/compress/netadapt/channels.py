"""Which channels of a functional network belong together, and the network without some of them.

Every channel of a tensor's last axis has a number. Convs and dense layers make numbers, BN, pools and depthwise convs hand them on,
concat and flatten put them in a row, adding ties those that meet, for good. What a network is cut by is such a class of numbers: it
leaves every tensor in which it is at once, so that no channel ever meets another one than before.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras as keras

from frenzy.compress.netadapt.kinds import IN, Kind, Numbers, closed, kind_of
from frenzy.compress.rewire import producers
from frenzy.compress.tensors import CompressError, short_name

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a cut network that need not be there yet: its entry in a functional config, what it reads, and all shapes."""

    name: str
    reads: tuple[str, ...]
    entry: Mapping[str, Any]
    inputs: tuple[Shape, ...]
    output: Shape
    weights: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that the same layers make together: the layers with kernels, and a class for each channel."""

    name: str
    layers: tuple[str, ...]
    classes: tuple[int, ...]


class _Numbering:
    """Numbers of channels; those that are tied have one root."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.makers: list[str] = []
        self.locked: dict[int, str] = {}

    def fresh(self, count: int, maker: str) -> Numbers:
        first = len(self.parents)
        self.parents += range(first, first + count)
        self.makers += [maker] * count
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def tie(self, some: Numbers, others: Numbers) -> None:
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            first, second = sorted((self.root(one), self.root(other)))
            self.parents[second] = first

    def lock(self, numbers: Numbers, reason: str) -> None:
        for number in numbers.tolist():
            self.locked.setdefault(number, reason)


class Channels:
    """The classes of a network's channels. Raises CompressError where it is no functional network of one input and one output.

    `groups` can be cut; `locked` says of the other layers with kernels why some or all of their channels stay.
    """

    def __init__(self, model: keras.Model):
        if not isinstance(model, keras.Model) or not model._is_graph_network:
            raise CompressError(f"{model.name} is no functional network; its channels cannot be followed: build it from layers")
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise CompressError(
                f"{model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is needed"
            )
        self.model = model
        self.kinds: dict[str, Kind | None] = {}
        self._made: dict[str, Numbers] = {}
        self._read: dict[str, list[Numbers]] = {}
        book = _Numbering()
        self._follow(book)
        roots = np.array([book.root(number) for number in range(len(book.parents))])
        _, self._class_of = np.unique(roots, return_inverse=True)
        self.count = int(self._class_of.max()) + 1
        reasons = {int(self._class_of[number]): reason for number, reason in sorted(book.locked.items(), reverse=True)}
        self.groups = self._grouped(book, reasons)
        self.locked = self._locked(reasons)

    def _follow(self, book: _Numbering) -> None:
        for layer in self.model.layers:
            if isinstance(layer.output, list):
                raise CompressError(
                    f"{layer.name} of {self.model.name} has several outputs; layers of one output alone can be followed"
                )
            if isinstance(layer, keras.layers.InputLayer):
                made = book.fresh(self.model.input_shape[-1], layer.name)
                book.lock(made, "it is the network's input")
            else:
                self._read[layer.name] = [self._made[name] for name in producers(layer)]
                kind, reason = kind_of(layer)
                self.kinds[layer.name] = kind
                args = (book, layer, self._read[layer.name])
                made = kind.flow(*args) if kind else closed(*args, reason)
            self._made[layer.name] = made
        book.lock(self._made[self.model.output_names[0]], "it is the network's output")

    def made(self, layer: str) -> Numbers:
        """The class of every channel of a layer's output."""
        return self._class_of[self._made[layer]]

    @functools.cached_property
    def makers(self) -> list[str]:
        """The layers whose kernels make channels, in the network's order."""
        return [name for name, kind in self.kinds.items() if kind and kind.kernel]

    def _grouped(self, book: _Numbering, reasons: Mapping[int, str]) -> tuple[Group, ...]:
        signatures: dict[int, set[str]] = {}
        for number, maker in enumerate(book.makers):
            signatures.setdefault(int(self._class_of[number]), set()).add(maker)
        together: dict[frozenset[str], list[int]] = {}
        for each, makers in sorted(signatures.items()):
            if each not in reasons:
                together.setdefault(frozenset(makers), []).append(each)
        order = {layer.name: place for place, layer in enumerate(self.model.layers)}
        shares = {name: sum(name in makers for makers in together) for name in order}
        taken: set[str] = set()
        groups = []
        for members, classes in sorted(together.items(), key=lambda pair: min(order[name] for name in pair[0])):
            layers = sorted(members & set(self.makers), key=order.__getitem__)
            candidates = sorted(layers or members, key=lambda name: (name in taken, shares[name], order[name]))
            name = candidates[0] if candidates[0] not in taken else f"{candidates[0]}_{len(taken)}"
            taken.add(name)
            groups.append(Group(name, tuple(layers), tuple(classes)))
        return tuple(groups)

    def _locked(self, reasons: Mapping[int, str]) -> dict[str, str]:
        found = {}
        for layer in self.model.layers:
            kind = self.kinds.get(layer.name)
            if (kind is None and layer.weights) or (kind and kind.kernel):
                kept = [reasons[each] for each in self.made(layer.name).tolist() if each in reasons]
                if kept:
                    found[layer.name] = kept[0]
        return found

    def norms(self) -> np.ndarray:
        """float64, one a class: the L2 norms of its filters, summed over the layers that make it."""
        total = np.zeros(self.count)
        for name in self.makers:
            kind, weights = self.kinds[name], self.model.get_layer(name).weights
            kernel = next(v.numpy() for v in weights if kind and short_name(v) == kind.kernel)
            flat = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
            np.add.at(total, self.made(name), np.sqrt((flat**2).sum(0)))
        return total

    @functools.cached_property
    def _entries(self) -> dict[str, dict]:
        return {entry["name"]: entry for entry in self.model.get_config()["layers"]}

    def layers(self, alive: np.ndarray | None = None) -> tuple[Layer, ...]:
        """Every layer for the classes that are alive (bool, one a class; None: all), without the network being built."""
        alive = np.ones(self.count, bool) if alive is None else alive
        return tuple(self._layer(layer, alive) for layer in self.model.layers if layer.name in self._read)

    def _layer(self, layer: keras.layers.Layer, alive: np.ndarray) -> Layer:
        inputs = [int(alive[self._class_of[numbers]].sum()) for numbers in self._read[layer.name]]
        made = int(alive[self.made(layer.name)].sum())
        kind, entry = self.kinds[layer.name], {**self._entries[layer.name]}
        entry.pop("build_config", None)  # the shapes that it had
        if kind:
            entry["config"] = {**entry["config"], **kind.widths(layer, inputs[0], made)}
        shapes = layer.input_shape if isinstance(layer.input_shape, list) else [layer.input_shape]
        counts = {IN: inputs[0] if inputs else 0}
        weights = {}
        for variable in layer.weights:
            axes = kind.axes.get(short_name(variable), {}) if kind else {}
            shape = [counts[IN] if axes.get(i) == IN else made if i in axes else side for i, side in enumerate(variable.shape)]
            weights[short_name(variable)] = tuple(shape)
        return Layer(
            layer.name,
            tuple(producers(layer)),
            entry,
            tuple((*shape[:-1], count) for shape, count in zip(shapes, inputs, strict=True)),
            (*layer.output_shape[:-1], made),
            weights,
        )

    def cut(self, alive: np.ndarray) -> keras.Model:
        """A new network of the classes that are alive, with their weights. Raises CompressError where a layer would have none."""
        layers = self.layers(alive)
        if empty := next((layer for layer in layers if not layer.output[-1]), None):
            raise CompressError(f"{empty.name} would keep no channel; leave it one at least")
        config = self.model.get_config()
        entries = {layer.name: layer.entry for layer in layers}
        config["layers"] = [entries.get(entry["name"], entry) for entry in config["layers"]]
        new = keras.Model.from_config(config)
        for name, kind in self.kinds.items():
            new.get_layer(name).set_weights(self._sliced(self.model.get_layer(name), kind, alive))
        return new

    def _sliced(self, layer: keras.layers.Layer, kind: Kind | None, alive: np.ndarray) -> list[np.ndarray]:
        """The weights of one layer for what is alive."""
        values = []
        for variable in layer.weights:
            value = variable.numpy()
            for axis, side in (kind.axes.get(short_name(variable), {}) if kind else {}).items():
                classes = self._class_of[self._read[layer.name][0]] if side == IN else self.made(layer.name)
                value = np.compress(alive[classes], value, axis)
            values.append(value)
        return values

    def without(self, classes: Sequence[int]) -> np.ndarray:
        """bool, one a class: alive are all others."""
        alive = np.ones(self.count, bool)
        alive[list(classes)] = False
        return alive


class Candidate:
    """A cut of a network that is weighed: `layers` at once, the network itself where it is asked for."""

    def __init__(self, channels: Channels, alive: np.ndarray):
        self.channels, self.alive = channels, alive

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        return self.channels.layers(self.alive)

    def build(self) -> keras.Model:
        """The network, with the weights of what is left."""
        return self.channels.cut(self.alive)
