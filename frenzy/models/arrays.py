"""Weights as a flat dict of named NumPy arrays, in a .npz file, and weights that PyTorch wrote.

Names are "layer/weight": "stem/kernel", "block2_se/reduce_kernel", "stem_bn/moving_mean". Order: layers depth first from the
output, each behind all that it reads, the first input of a layer first. Where builders name the main branch before the
shortcut, as they do here, that is the order in which PyTorch code of the same network defines its modules.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import tf_keras as keras

from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D

ROLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
BN_LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
DENSE_LEAVES = {"kernel": "weight", "bias": "bias"}


class ArraysError(ValueError):
    """Arrays that do not fit a network; the message names the first ones, with shapes."""


def _inputs(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer reads, in the order of its arguments."""
    found: list[keras.layers.Layer] = []
    for node in layer.inbound_nodes:
        parents = node.inbound_layers
        found += parents if isinstance(parents, list | tuple) else [parents]
    return found


def ordered_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers depth first from the output, each behind all that it reads; those of the model alone."""
    own = {id(layer) for layer in model.layers}
    order: list[keras.layers.Layer] = []
    done: set[int] = set()
    stack = [(tensor.node.layer, False) for tensor in reversed(model.outputs)]
    while stack:
        layer, leaving = stack.pop()
        if leaving:
            order.append(layer)
        elif id(layer) in own and id(layer) not in done:
            done.add(id(layer))
            stack.append((layer, True))
            stack.extend((parent, False) for parent in reversed(_inputs(layer)))
    return order


def named_weights(model: keras.Model) -> dict:
    """{"layer/weight": variable} in the order of this file. Raises ArraysError where two weights would share a name."""
    found: dict = {}
    for layer in ordered_layers(model):
        for variable in layer.weights:
            inner = variable.name.split(":")[0].removeprefix(f"{layer.name}/")
            name = f"{layer.name}/{inner}"
            if name in found:
                raise ArraysError(f"two weights are called '{name}'; give the layers names of their own")
            found[name] = variable
    return found


def save_arrays(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes every weight, BN statistics too, to a .npz file of named arrays, whole or not at all."""
    path = pathlib.Path(path)
    values = {name: variable.numpy() for name, variable in named_weights(model).items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **values)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .npz file in its order. Raises ArraysError where it cannot be read or holds Python objects."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        raise ArraysError(f"{path} cannot be read as .npz ({' '.join(str(e).split())})") from None
    raise ArraysError(f"{path} is one array; a .npz file of named ones is needed")


def load_arrays(model: keras.Model, arrays: Mapping[str, np.ndarray] | str | os.PathLike) -> None:
    """Sets every weight from arrays of these names, or a .npz file of them; all or none.

    Raises ArraysError where names or shapes differ, or a value is not a finite number of the weight's type.
    """
    if not isinstance(arrays, Mapping):
        arrays = read_npz(arrays)
    weights = named_weights(model)
    missing, extra = [n for n in weights if n not in arrays], [n for n in arrays if n not in weights]
    if missing or extra:
        raise ArraysError(
            f"the arrays are not those of {model.name}: {len(missing)} missing{_some(missing)}, {len(extra)} unknown{_some(extra)}"
        )
    values = {name: _fitting(name, np.asarray(arrays[name]), variable) for name, variable in weights.items()}
    for name, variable in weights.items():
        variable.assign(values[name])


def transfer(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Sets the weights that have an array of their name and shape, and returns the names of the others, which stay as they are.

    For a trained network that learns other classes: the classifier stays fresh. Raises ArraysError where hardly anything fits:
    fewer than half of the weights' elements.
    """
    weights = named_weights(model)
    fitting = {n: np.asarray(arrays[n]) for n, v in weights.items() if n in arrays and np.shape(arrays[n]) == tuple(v.shape)}
    left = [name for name in weights if name not in fitting]
    size = sum(int(np.prod(v.shape)) for v in weights.values())
    if 2 * sum(value.size for value in fitting.values()) < size:
        raise ArraysError(
            f"the arrays are of another network than {model.name}: they fit {len(fitting)} of its {len(weights)} weights; "
            f"not{_some(left)}"
        )
    values = {name: _fitting(name, value, weights[name]) for name, value in fitting.items()}
    for name, value in values.items():
        weights[name].assign(value)
    return left


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _fitting(name: str, value: np.ndarray, variable) -> np.ndarray:
    shape = tuple(variable.shape)
    if value.shape != shape:
        raise ArraysError(f"'{name}' is {value.shape}; the network's is {shape}")
    if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise ArraysError(
            f"'{name}' holds {value.dtype} with values that are no finite numbers; the network's is {shape} floats"
        )
    return value.astype(variable.dtype.as_numpy_dtype)


# PyTorch


@dataclasses.dataclass(frozen=True)
class Unit:
    """The weights that one PyTorch module holds: {role: array name}. `flattened`: (h, w, c) that a dense layer reads, or None."""

    name: str
    kind: str  # conv, depthwise, dense, batch_norm
    weights: Mapping[str, str]
    flattened: tuple[int, ...] | None = None


def _flattened(layer: keras.layers.Layer) -> tuple[int, ...] | None:
    """(h, w, c) where a dense layer reads a flattened picture: PyTorch flattens (c, h, w)."""
    (layer,) = _inputs(layer)
    while isinstance(layer, keras.layers.Dropout):
        (layer,) = _inputs(layer)
    return tuple(layer.input_shape[1:]) if isinstance(layer, keras.layers.Flatten) else None


def units(model: keras.Model) -> list[Unit]:
    """The network's weights, grouped as PyTorch modules group them. Raises ArraysError for layers that have no such form."""
    groups: dict[str, dict[str, str]] = {}
    layers = {layer.name: layer for layer in ordered_layers(model)}
    for name in named_weights(model):
        layer, inner = name.split("/", 1)
        role = next((role for role in ROLES if inner.endswith(role)), None)
        if role is None or isinstance(layers[layer], CondConv2D | CondDepthwiseConv2D):
            raise ArraysError(f"'{name}' of {type(layers[layer]).__name__} has no PyTorch layout here; load it by load_arrays")
        stem = inner.removesuffix(role).removesuffix("_").removesuffix("depthwise")
        groups.setdefault(f"{layer}/{stem}" if stem else layer, {})[role] = name
    return [_unit(name, weights, layers[name.split("/")[0]]) for name, weights in groups.items()]


def _unit(name: str, weights: Mapping[str, str], layer: keras.layers.Layer) -> Unit:
    if "moving_mean" in weights:
        return Unit(name, "batch_norm", weights)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return Unit(name, "depthwise", weights)
    if isinstance(layer, keras.layers.Conv2D):
        return Unit(name, "conv", weights)
    return Unit(name, "dense", weights, _flattened(layer) if isinstance(layer, keras.layers.Dense) else None)


def _modules(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """A state_dict by module, in its order: {"features.0": {"weight": array}}. DataParallel's "module." is dropped."""
    found: dict[str, dict[str, np.ndarray]] = {}
    parallel = all(key.startswith("module.") for key in state)
    for key, value in state.items():
        module, _, leaf = (key.removeprefix("module.") if parallel else key).rpartition(".")
        if leaf != "num_batches_tracked":
            found.setdefault(module, {})[leaf] = np.asarray(value)
    return found


def _relaid(value: np.ndarray, unit: Unit) -> np.ndarray:
    """A PyTorch kernel in our layout: conv (o, i, h, w) -> (h, w, i, o), depthwise (c, 1, h, w) -> (h, w, c, 1), dense (o, i) -> (i, o)."""
    if unit.kind == "conv" and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if unit.kind == "depthwise" and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)
    if unit.kind == "dense" and value.ndim == 4 and value.shape[2:] == (1, 1):  # a dense layer that was written as a 1x1 conv
        value = value[:, :, 0, 0]
    if unit.kind == "dense" and value.ndim == 2:
        if unit.flattened and np.prod(unit.flattened) == value.shape[1]:
            height, width, channels = unit.flattened
            value = value.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(value.shape)
        return value.T
    return value


def from_torch(
    model: keras.Model, state: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch state_dict under this model's names, for load_arrays.

    `names`: {our layer (or "layer/reduce" within one): PyTorch module}; without it modules are taken in their order, which
    is checked kind by kind and shape by shape. Raises ArraysError with the first pair that does not fit.
    """
    modules, wanted = _modules(state), units(model)
    if names is None:
        if len(modules) != len(wanted):
            raise ArraysError(
                f"the state has {len(modules)} modules with weights, {model.name} {len(wanted)}; by order they must be equally many"
            )
        names = {unit.name: module for unit, module in zip(wanted, modules, strict=True)}
    weights = named_weights(model)
    found: dict[str, np.ndarray] = {}
    for unit in wanted:
        module = names.get(unit.name)
        if module not in modules:
            raise ArraysError(f"'{unit.name}' takes module '{module}', which the state does not have")
        found |= _converted(unit, module, modules[module], weights)
    return found


def _converted(unit: Unit, module: str, leaves: Mapping[str, np.ndarray], weights: Mapping) -> dict[str, np.ndarray]:
    """One module's arrays under our names."""
    leaf_of = BN_LEAVES if unit.kind == "batch_norm" else DENSE_LEAVES
    expected = sorted(leaf_of[role] for role in unit.weights)
    if sorted(leaves) != expected:
        raise ArraysError(
            f"'{unit.name}' is a {unit.kind} of {', '.join(expected)}; module '{module}' has {', '.join(sorted(leaves))}"
        )
    found = {}
    for role, name in unit.weights.items():
        value = leaves[leaf_of[role]]
        value = _relaid(value, unit) if role == "kernel" else value
        if value.shape != tuple(weights[name].shape):
            raise ArraysError(
                f"'{name}' is {tuple(weights[name].shape)}; '{module}.{leaf_of[role]}', "
                f"{leaves[leaf_of[role]].shape} in PyTorch, gives {value.shape}"
            )
        found[name] = value
    return found
