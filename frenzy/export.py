"""keras.Model -> SavedModel that needs no Keras: lean graph, weights at the width that is claimed, checked after writing.

The graph is traced once; every weight that it reads is replaced by a stored variable and the cast that restores it, so any
tf_keras network can be stored at 16 bits without being rebuilt.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.accounting import Report, accounts, read
from frenzy.data.augment import normalise

MAX_DIFFERENCE = 1e-4
CARD = pathlib.Path("assets.extra", "model_card.json")
TOP = 5
CARD_CONVENTIONS = ("frenzy", "micronet")


class ExportError(Exception):
    """A network that cannot be exported as asked, or whose export does not compute what the network computes."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images become inputs: x = (pixel / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def round_weights(model: keras.Model, dtype: str) -> None:
    """Rounds every floating weight to `dtype` in place, so that storing it so loses nothing. Raises ExportError on overflow."""
    for variable in model.weights:
        if not variable.dtype.is_floating:
            continue
        with np.errstate(over="ignore"):
            rounded = variable.numpy().astype(tf.as_dtype(dtype).as_numpy_dtype)
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise ExportError(f"weight {variable.name} does not fit {dtype}: it reaches {np.abs(variable.numpy()).max():g}")
        variable.assign(rounded.astype(variable.dtype.as_numpy_dtype))


def _stored(variable: tf.Variable, dtype: str | None) -> tf.Variable:
    value = variable.numpy()
    if dtype and variable.dtype.is_floating:
        with np.errstate(over="ignore"):
            narrow = value.astype(tf.as_dtype(dtype).as_numpy_dtype)
        if not np.array_equal(narrow.astype(value.dtype), value):
            raise ExportError(f"weight {variable.name} is not exact in {dtype}; call round_weights(model, '{dtype}') before")
        value = narrow
    return tf.Variable(value, trainable=False, name=variable.name.split(":")[0])


def _trace(model: keras.Model):
    """The inference graph of a model: its concrete function, any batch size."""
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    return tf.function(lambda images: model(images, training=False)).get_concrete_function(spec)


class _Network(tf.Module):
    """Stored weights and the traced graph that reads them."""

    def __init__(self, model: keras.Model, dtype: str | None):
        super().__init__(name=re.sub(r"\W", "_", model.name))  # TensorFlow takes identifiers alone
        concrete = _trace(model)
        self.definition, self.reads = _without_reads(concrete, {id(v.handle): v for v in model.variables})
        self.input_name = concrete.inputs[0].name
        self.output_name = concrete.outputs[0].name
        # one attribute a weight, named after it: block1_conv1/kernel
        self.weights = {v.name.split(":")[0]: _stored(v, dtype) for v in model.variables}

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """(n, h, w, c) normalised -> (n, classes)."""
        values = {}
        for node, (name, dtype) in self.reads.items():
            with tf.name_scope(f"{name}/"):
                values[f"{node}:0"] = tf.cast(tf.convert_to_tensor(self.weights[name]), dtype)
        (out,) = tf.graph_util.import_graph_def(
            self.definition, {**values, self.input_name: images}, [self.output_name], name=""
        )
        return out


def _without_reads(concrete, by_handle: Mapping[int, tf.Variable]):
    """The function's graph with every read of a variable cut out, and {read node: (weight, dtype)} to put back."""
    handles = {
        inner.name.split(":")[0]: by_handle[id(outer)]
        for outer, inner in concrete.graph.captures
        if outer.dtype == tf.resource and id(outer) in by_handle
    }
    graph = concrete.graph.as_graph_def()
    reads = {}
    for node in graph.node:
        if node.op == "ReadVariableOp":
            variable = handles[node.input[0].split(":")[0]]
            reads[node.name] = (variable.name.split(":")[0], variable.dtype)
    inputs = {tensor.name.split(":")[0] for tensor in concrete.inputs}
    kept = [n for n in graph.node if n.name not in reads and n.name not in inputs and n.op != "NoOp"]
    lean = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    for node in kept:
        copy = lean.node.add()
        copy.CopyFrom(node)
        inputs_kept = [name for name in copy.input if not name.startswith("^")]
        del copy.input[:]
        copy.input.extend(inputs_kept)
    return lean, reads


def _signatures(network: _Network, shape: tuple, preprocessing: Preprocessing, class_names: Sequence[str]) -> dict:
    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="images")])
    def serving_default(images):
        return {"logits": network.logits(images)}

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, name="images")])
    def classify(images):
        logits = network.logits(normalise(images, preprocessing.mean, preprocessing.std))
        probabilities, classes = tf.math.top_k(tf.nn.softmax(logits), min(TOP, len(class_names)))
        return {"classes": classes, "names": tf.gather(tf.constant(list(class_names)), classes), "probabilities": probabilities}

    return {"serving_default": serving_default, "classify": classify}


def fixed_images(shape: Sequence[int]) -> np.ndarray:
    """float32 (1, h, w, c) that every machine makes alike: a sine over the element's number. For logits to be compared on."""
    count = math.prod(shape)
    return np.sin(np.arange(count, dtype=np.float64)).astype(np.float32).reshape(1, *shape)


def _check(model: keras.Model, folder: pathlib.Path, shape: tuple) -> None:
    """Raises ExportError where what was written gives other logits than the model, on random inputs of two batch sizes."""
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    random = np.random.default_rng(0)
    for batch in (1, 3):
        images = tf.constant(random.normal(size=(batch, *shape)), tf.float32)
        logits = model(images, training=False).numpy()
        difference = np.abs(logits - serve(images=images)["logits"].numpy()).max()
        allowed = MAX_DIFFERENCE * max(1.0, np.abs(logits).max() / 10)  # float32 itself is no finer where logits are large
        if not difference <= allowed:  # also where it is not a number
            raise ExportError(
                f"the export gives other logits than the network: they differ by {difference:g}, more than {allowed:g}"
            )


def variables_sha256(folder: pathlib.Path) -> str:
    """The SHA-256 over the files of variables/, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted((folder / "variables").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stored_weights(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights of an exported network as float32 arrays by name, "stem/kernel". Raises ExportError where there are none."""
    try:
        reader = tf.train.load_checkpoint(str(pathlib.Path(folder, "variables", "variables")))
    except (tf.errors.OpError, ValueError) as e:
        raise ExportError(f"{folder} holds no weights that can be read ({' '.join(str(e).split())[:200]})") from None
    prefix, suffix = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"
    keys = [key for key in reader.get_variable_to_shape_map() if key.startswith(prefix) and key.endswith(suffix)]
    if not keys:
        raise ExportError(
            f"{folder} was not written by this exporter: it names no weights; export the network with tools/export.py"
        )
    named = {key.removeprefix(prefix).removesuffix(suffix).replace(".S", "/"): reader.get_tensor(key) for key in sorted(keys)}
    return {name: value.astype(np.float32) for name, value in named.items()}


def read_card(folder: str | os.PathLike) -> dict:
    """The model card of an exported network. Raises ExportError where it is missing or no JSON object."""
    path = pathlib.Path(folder, CARD)
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise ExportError(f"{path} cannot be read ({e}); export the network with tools/export.py") from None
    if not isinstance(card, dict):
        raise ExportError(f"{path} holds no JSON object; export the network again with tools/export.py")
    return card


def counts_of(folder: pathlib.Path, task: str) -> dict:
    """A card's `counts`: MS, OC and score of a SavedModel under each of CARD_CONVENTIONS."""
    counts = {}
    for name, report in accounts(read(folder), CARD_CONVENTIONS, task).items():
        counts[name] = {
            "parameters": report.totals.parameters,
            "storage_bytes": float(report.totals.storage_bytes),
            "operations": float(report.totals.operations),
            "score": float(report.score.total) if report.score else None,
            "unknown_nodes": len(report.unknown),
        }
    return counts


def account_model(model: keras.Model, conventions: Sequence[str], task: str = "cifar100") -> dict[str, Report]:
    """Reports on a live model, by convention: it is written to a temporary folder and read from there."""
    with tempfile.TemporaryDirectory() as folder:
        root = tf.Module()
        root.model = model
        spec = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="images")
        root.__call__ = tf.function(lambda images: model(images, training=False), input_signature=[spec])
        tf.saved_model.save(root, folder, signatures={})
        return accounts(read(folder), conventions, task)


def write_card(folder: pathlib.Path, facts: Mapping) -> None:
    """Writes assets.extra/model_card.json whole or not at all."""
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=2) + "\n")
    os.replace(temporary, path)


def _card(
    model: keras.Model,
    folder: pathlib.Path,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    facts: Mapping,
    task: str,
) -> dict:
    return {
        "name": model.name,
        "input_shape": list(model.input_shape[1:]),
        "class_names": list(class_names),
        "preprocessing": dataclasses.asdict(preprocessing),
        **facts,
        "golden_logits": model(fixed_images(model.input_shape[1:]), training=False).numpy()[0].tolist(),
        "task": task,
        "counts": counts_of(folder, task),
        "versions": {
            "python": sys.version.split()[0], "tensorflow": tf.__version__, "tf_keras": keras.__version__, "numpy": np.__version__
        },
        "exported": datetime.date.today().isoformat(),
        "variables_sha256": variables_sha256(folder),
    }  # fmt: skip


def export(
    model: keras.Model,
    folder: str | os.PathLike,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    weight_dtype: str | None = "float16",
    facts: Mapping | None = None,
    task: str = "cifar100",
    check: Callable[[pathlib.Path], None] | None = None,
) -> dict:
    """Writes a model of (n, h, w, c) -> (n, classes) as a SavedModel and returns its card.

    Signatures: serving_default, normalised float32 images -> {logits}; classify, uint8 images -> {classes, names,
    probabilities} of the best five. `weight_dtype`: how floating weights are stored (None: as they are); they must be exact
    in it. `facts` go into the card. Written beside `folder` first and moved there once its logits are right; else deleted.
    `check` is given the folder that was written and raises where it is wrong; by default it is loaded and run on random images.
    Raises ExportError.
    """
    shape = tuple(model.input_shape[1:])
    folder = pathlib.Path(folder)
    if None in shape or len(shape) != 3:
        raise ExportError(f"the network takes {shape}; an export needs images of one known size (height, width, channels)")
    if len(class_names) != model.output_shape[-1]:
        raise ExportError(f"{len(class_names)} class names for {model.output_shape[-1]} outputs; give one for each")
    if folder.exists() and not (folder / "saved_model.pb").is_file() and any(folder.iterdir()):
        raise ExportError(f"{folder} is there and is no SavedModel; it is left alone: name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        network = _Network(model, weight_dtype)
        signatures = _signatures(network, shape, preprocessing, class_names)
        root = tf.Module()
        root.weights = network.weights
        tf.saved_model.save(root, str(new), signatures=signatures)
        if check:
            check(new)
        else:
            _check(model, new, shape)
        card = _card(model, new, preprocessing, class_names, facts or {}, task)
        write_card(new, card)
        os.chmod(new, 0o755)
        replace_folder(folder, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return card


def replace_folder(folder: pathlib.Path, new: pathlib.Path) -> None:
    """Puts `new` where `folder` is; the old one is kept until the new one is in place."""
    if not folder.exists():
        os.replace(new, folder)
        return
    old = new.with_name(f"{new.name}-old")
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)
