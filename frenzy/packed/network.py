"""SavedModel -> packed file -> SavedModel. What is packed is what an exported network stores: every variable that its serving_default
reads, bit by bit, but for zeros that are negative.

The graph is not in the file: the network is built again by its name, and must come out with the very graph that was packed. So the
logits are the same to the last bit.
"""

import hashlib
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy import export, models
from frenzy.accounting import TASKS, Graph, read
from frenzy.accounting.checkpoint import Values
from frenzy.accounting.widths import is_quantizer, quantizer_bits
from frenzy.models.arrays import ArraysError
from frenzy.packed.codes import PackedError
from frenzy.packed.container import Sizes, digest, dump, load

MAP = re.compile(r"(?:.*/)?([^/]+)_map/[^/]+")  # the node of a quantized map: its layer
WRITTEN_ANEW = {
    "name", "input_shape", "class_names", "preprocessing", "golden_logits", "task", "counts", "versions", "exported", "variables_sha256"
}  # fmt: skip
# what of a node's attributes says what it computes
ATTRIBUTES = (
    "alpha", "data_format", "dilations", "epsilon", "equation", "explicit_paddings", "is_training", "keep_dims", "ksize", "narrow_range",
    "num_bits", "padding", "strides", "transpose_a", "transpose_b",
)  # fmt: skip
LONGEST_SIDE = 1 << 16
TRIED = 4  # images that verify() compares


def graph_sha256(graph: Graph) -> str:
    """What a graph computes from its variables' values, in 43 characters: the same for graphs that differ in names alone."""
    found: dict[str, str] = {}
    for node in graph.nodes.values():
        literal = graph.constant((node.name, 0)) if node.op == "Const" else None
        variable = graph.variables.get(node.name)
        parts = [
            node.op,
            [f"{found[name]}:{index}" for name, index in node.inputs],
            [str(node.attrs.get(key, "")) for key in ATTRIBUTES],
            (node.bits, node.real, node.shapes),
            (variable.name, variable.shape, variable.bits) if variable else None,
            (str(literal.dtype), literal.shape, literal.tobytes()) if literal is not None else None,
        ]
        found[node.name] = hashlib.sha256(repr(parts).encode()).hexdigest()
    return digest(repr([f"{found[name]}:{index}" for name, index in graph.outputs]).encode())


def _maps(graph: Graph) -> dict[str, list]:
    """{layer: [bits, low, high]} of the feature maps that are quantized. Raises PackedError for other quantizers."""
    maps: dict[str, list] = {}
    for node in filter(is_quantizer, graph.nodes.values()):
        layer = MAP.fullmatch(node.name)
        values = [graph.constant(ref) for ref in node.inputs[1:]]
        if node.op != "FakeQuantWithMinMaxVars" or not layer or any(value is None or value.size != 1 for value in values):
            raise PackedError(
                f"{graph.folder}: {node.op} '{node.name}' is no feature map of tools/compress.py; only such can be packed"
            )
        # the shortest decimals that give the same float32
        maps[layer[1]] = [quantizer_bits(graph, node), *(float(str(np.float32(value))) for value in values)]
    return maps


def stored(graph: Graph) -> dict[str, np.ndarray]:
    """The variables that a graph reads, by name, as they are stored. Raises PackedError where the data are not there."""
    values = Values(graph.folder)
    found = {}
    for variable in graph.variables.values():
        array = values(variable.key)
        if array is None:
            raise PackedError(f"{graph.folder} lacks the data of {variable.name}; copy its variables/ again")
        found[variable.name] = array
    return found


def pack(folder: str | os.PathLike, path: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> Sizes:
    """Writes an exported network to a file, whole or not at all. `overrides`: what models.build was given beside the card's facts.

    Raises PackedError, ExportError for a folder without a card, and AccountingError.
    """
    card = export.read_card(folder)
    graph = read(folder)
    try:
        facts = {
            "network": card["name"],
            "overrides": dict(overrides or {}),
            "input_shape": card["input_shape"],
            "class_names": card["class_names"],
            "preprocessing": card["preprocessing"],
            "task": card.get("task", "cifar100"),
            "card": {key: value for key, value in card.items() if key not in WRITTEN_ANEW},
            "maps": _maps(graph),
            "graph_sha256": graph_sha256(graph),
        }
    except KeyError as e:
        raise PackedError(f"the card of {folder} lacks {e}; export the network again") from None
    _check(facts)
    try:
        data, sizes = dump(facts, stored(graph))
    except PackedError as e:
        raise PackedError(f"{folder}: {e}") from None
    _write(pathlib.Path(path), data)
    return sizes


def _write(path: pathlib.Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent if path.parent.is_dir() else None, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        raise PackedError(
            f"cannot write {path}: {(e.strerror or str(e)).lower()}; name a file in a folder that is there"
        ) from None
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


def read_packed(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the tensors of a packed file, checked. Raises PackedError."""
    try:
        facts, tensors = load(pathlib.Path(path).read_bytes())
        _check(facts)
    except OSError as e:
        raise PackedError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    except PackedError as e:
        raise PackedError(f"{path}: {e}") from None
    return facts, tensors


def _numbers(value: Any, kinds: type | tuple[type, ...] = (int, float)) -> bool:
    """Whether it is a list of three finite numbers."""
    fits = isinstance(value, list) and len(value) == 3 and all(isinstance(x, kinds) and not isinstance(x, bool) for x in value)
    return fits and all(abs(x) < math.inf for x in value)


# fact -> what it must be, in words, and whether it is
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "network": ("a network that tools/zoo.py lists", lambda x: isinstance(x, str) and x in models.ZOO),
    "overrides": (
        "numbers and words by name",
        lambda x: isinstance(x, dict) and all(isinstance(each, bool | int | float | str) for each in x.values()),
    ),
    "input_shape": (
        f"three sizes of 1 to {LONGEST_SIDE}", lambda x: _numbers(x, int) and all(0 < side <= LONGEST_SIDE for side in x)
    ),
    "class_names": ("words", lambda x: isinstance(x, list) and x != [] and all(isinstance(each, str) for each in x)),
    "preprocessing": (
        "a mean and a std of three numbers each, std above 0",
        lambda x: isinstance(x, dict) and _numbers(x.get("mean")) and _numbers(x.get("std")) and min(x["std"]) > 0,
    ),
    "task": (f"one of {', '.join(TASKS)}", lambda x: isinstance(x, str) and x in TASKS),
    "card": ("facts by name", lambda x: isinstance(x, dict)),
    "maps": (
        "2 to 8 bits, low and high by name",
        lambda x: isinstance(x, dict) and all(_numbers(y) and y[0] in range(2, 9) and y[1] < y[2] for y in x.values()),
    ),
    "graph_sha256": ("a word", lambda x: isinstance(x, str)),
}  # fmt: skip


def _check(facts: Mapping[str, Any]) -> None:
    """Raises PackedError for facts from which no network can be built."""
    for key, (needed, holds) in RULES.items():
        if not holds(facts.get(key)):
            raise PackedError(f"its {key} is {str(facts.get(key))[:60]!r}; needed: {needed}. Pack an export of this project's")


def build(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> keras.Model:
    """The network that facts name, with these weights. Raises PackedError where they are not its own."""
    shape = tuple(facts["input_shape"])

    def fresh() -> keras.Model:
        return models.build(facts["network"], len(facts["class_names"]), shape, **facts["overrides"])

    try:
        if math.prod(shape) > math.prod(models.ZOO[facts["network"]].input_shape):
            with tf.Graph().as_default():  # takes no memory
                _count(fresh(), tensors)
        model = fresh()
        _count(model, tensors)
        if facts["maps"]:
            model = _with_maps(model, facts["maps"])
        models.load_arrays(model, tensors)
    except Exception as e:  # what overrides make a builder raise is anybody's guess
        raise PackedError(f"{facts['network']} cannot be built from it ({' '.join(str(e).split())[:300]})") from None
    return model


def _count(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    found, needed = sum(array.size for array in tensors.values()), sum(math.prod(v.shape) for v in model.weights)
    if found != needed:
        raise ArraysError(f"the network has {needed:,} weights, the file {found:,}")


def _with_maps(model: keras.Model, maps: Mapping[str, list]) -> keras.Model:
    """The same network whose feature maps go through quantizers of fixed ranges, as `compress` leaves it."""
    from frenzy.compress import activations

    wide, names = activations.with_maps(model)
    ranges = {f"{name}{activations.SUFFIX}": values for name, values in maps.items()}
    if set(names) != set(ranges):
        odd = sorted(set(names) ^ set(ranges))
        raise ArraysError(f"its quantized maps are others than the network has: {', '.join(odd[:3])}")

    def quantized(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in ranges:
            return layer.__class__.from_config(layer.get_config())
        bits, low, high = ranges[layer.name]
        return activations.FakeQuantize(low, high, bits, name=layer.name)

    return keras.models.clone_model(wide, clone_function=quantized)


def unpack(path: str | os.PathLike, folder: str | os.PathLike) -> dict:
    """Rebuilds the SavedModel of a packed file in a folder that is not there yet, or empty, and returns its card.

    Raises PackedError, and ExportError where it cannot be written.
    """
    facts, tensors = read_packed(path)
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PackedError(f"{folder} is there already; name another folder")
    try:
        model = build(facts, tensors)
    except PackedError as e:
        raise PackedError(f"{path}: {e}") from None
    widths = {array.dtype.name for array in tensors.values()}
    if len(widths) > 1:
        raise PackedError(f"{path}: its tensors are of several types ({', '.join(sorted(widths))}); an export has one")
    pixels = export.Preprocessing(*(tuple(facts["preprocessing"][key]) for key in ("mean", "std")))
    dtype = "float16" if widths == {"float16"} else None
    known = {key: value for key, value in facts["card"].items() if key not in WRITTEN_ANEW}

    def check(written: pathlib.Path) -> None:
        """The graph that was packed and the very values of the file give the very logits."""
        graph = read(written)
        if graph_sha256(graph) != facts["graph_sha256"]:
            raise PackedError(
                f"{path}: {facts['network']} as it is built here is another network than the one that was packed; unpack it with the "
                "version of this project that packed it"
            )
        for name, array in stored(graph).items():
            if array.tobytes() != tensors[name].tobytes():
                raise PackedError(f"{path}: {name} was written with other values than it has in the file; report it")

    return export.export(model, folder, pixels, facts["class_names"], dtype, known, facts["task"], check)


def verify(path: str | os.PathLike, folder: str | os.PathLike) -> int:
    """Rebuilds a packed file and holds its logits against those of the SavedModel that was packed, bit by bit; how many images.

    Raises PackedError where one differs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        card = unpack(path, pathlib.Path(scratch, "SavedModel"))
        shape = tuple(card["input_shape"])
        drawn = np.random.default_rng(0).normal(size=(TRIED - 1, *shape)).astype(np.float32)
        images = tf.constant(np.concatenate([export.fixed_images(shape), drawn]))
        loaded = [tf.saved_model.load(str(each)) for each in (folder, pathlib.Path(scratch, "SavedModel"))]
        ours, theirs = (each.signatures["serving_default"](images=images)["logits"].numpy() for each in loaded)
    if ours.tobytes() != theirs.tobytes():
        worst = float(np.abs(ours - theirs).max())
        raise PackedError(
            f"{path} gives other logits than {folder}: they differ by {worst:g}; keep the SavedModel, and report it"
        )
    return TRIED
