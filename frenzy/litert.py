"""SavedModel -> TFLite file, by TensorFlow's converter: float32, or int8 calibrated on images; and what shrank by it.

A TFLite file knows float32, float16 and whole numbers of 4, 8 and more bits. Weights of one or two bits stay what their values
are stored as, float32 or int8: the network gets no smaller by having few values, only by packing (frenzy.packed).
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from frenzy.accounting import Report
from frenzy.quiet import quiet

MOST_OFF = 1e-3  # of the largest logit: a float32 file against the SavedModel
ENTRY = "serving_default"

Shapes = tuple[tuple[int, ...], ...]


class LitertError(Exception):
    """A network that cannot be converted as asked, or whose file computes something else; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """A tensor whose values are in the file; equal ones share a buffer."""

    name: str
    buffer: int
    dtype: str
    elements: int
    stored_bytes: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """A node's weights that the accountant counts as codes, in fewer bits than the file stores."""

    name: str
    claimed_as: str
    claimed_bits: int
    dtype: str
    stored_bytes: int


@dataclasses.dataclass(frozen=True)
class Shrinkage:
    """Bytes: of the TFLite file, of its constants by type, of the SavedModel's variables, and of what a convention counts."""

    file_bytes: int
    constants: Mapping[str, int]
    variable_bytes: int
    convention: str
    claimed_bits: int
    kept: tuple[Kept, ...]


def convert(folder: str | os.PathLike, calibration: np.ndarray | None = None) -> bytes:
    """The content of a TFLite file of `serving_default`: normalised float32 images (n, h, w, c) -> float32 logits.

    With `calibration`, normalised float32 images (n, h, w, c), weights are int8 by channel and maps int8 in ranges that these
    images span. Raises LitertError.
    """
    if not pathlib.Path(folder, "saved_model.pb").is_file():
        raise LitertError(f"{folder} is no SavedModel: it holds no saved_model.pb; name the folder that does")
    if calibration is not None and not len(calibration):
        raise LitertError("int8 needs images to calibrate on, and none came; give a few hundred of the training set")
    try:
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[ENTRY])
            if calibration is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            return converter.convert()
    except Exception as e:  # the converter raises whatever its passes raise
        lines = str(e).strip().splitlines() or ["no further text"]
        raise LitertError(f"TensorFlow's converter refuses {folder} ({type(e).__name__}: {lines[0][:200]})") from None


def _interpreter() -> Any:
    """LiteRT's own, else the one within TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return tf.lite.Interpreter
    return Interpreter


class Runner:
    """A TFLite file in an interpreter: normalised float32 images (n, h, w, c) -> float32 logits (n, classes), any n."""

    def __init__(self, content: bytes, threads: int | None = None):
        try:
            with quiet():
                self.interpreter = _interpreter()(model_content=content, num_threads=threads)
                (self.source,), (self.sink,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        except (ValueError, RuntimeError) as e:
            raise LitertError(f"LiteRT refuses the file ({' '.join(str(e).split())[:200]})") from None
        self.batch = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images, np.float32)
        if len(images) != self.batch:
            with quiet():
                self.interpreter.resize_tensor_input(self.source["index"], images.shape)
                self.interpreter.allocate_tensors()
            self.batch = len(images)
        self.interpreter.set_tensor(self.source["index"], images)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.sink["index"])


def check(logits: np.ndarray, expected: np.ndarray) -> None:
    """Raises LitertError where a float32 file's logits (n, classes) are not the network's."""
    off = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if not off <= MOST_OFF:  # also where it is not a number
        raise LitertError(
            f"the file's logits are off the network's by {off:.2g} of the largest; at most {MOST_OFF:g} is allowed"
        )


def constants(content: bytes) -> list[Constant]:
    """What a TFLite file stores, tensor by tensor."""
    from tensorflow.lite.python import schema_py_generated as schema

    kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    found = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                elements = int(np.prod(tensor.shape)) if tensor.shape is not None else 1
                found.append(Constant(tensor.name.decode(), tensor.buffer, kinds[tensor.type], elements, len(data)))
    return found


def operations(content: bytes) -> list[tuple[str, Shapes, Shapes]]:
    """What a TFLite file does, in order: an operation's name, the shapes that it reads, constants included, and those it makes."""
    from tensorflow.lite.python import schema_py_generated as schema

    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    found = []
    for graph in model.subgraphs:
        shapes = [tuple(map(int, t.shape)) if t.shape is not None else () for t in graph.tensors]
        for each in graph.operators:
            read, made = (tuple(shapes[i] for i in ends if i >= 0) for ends in (each.inputs, each.outputs))
            found.append((codes[each.opcodeIndex], read, made))
    return found


def _of(row: str, stored: Sequence[Constant]) -> Constant | None:
    """The constant that holds a node's weights: the largest that is named after the node, maybe among others."""
    named = [each for each in stored if _plain(row) in map(_plain, each.name.split(";"))]
    return max(named, key=lambda each: each.elements, default=None)


def _plain(name: str) -> str:
    """Without the number that tells tensors of one name apart."""
    return re.sub(r"\d*$", "", name)


def variable_bytes(folder: str | os.PathLike) -> int:
    """Bytes of the files of variables/ that hold values."""
    return sum(path.stat().st_size for path in pathlib.Path(folder, "variables").glob("variables.data-*"))


def shrinkage(content: bytes, folder: str | os.PathLike, report: Report) -> Shrinkage:
    """Where a file's bytes are, beside what its SavedModel stores and what the accountant's report on that counts."""
    stored = constants(content)
    by_type: dict[str, int] = {}
    kept = []
    for each in {each.buffer: each for each in stored}.values():
        by_type[each.dtype] = by_type.get(each.dtype, 0) + each.stored_bytes
    for row in report.rows:
        coded = row.stored_as and not row.stored_as.startswith("dense")
        holder = _of(row.name, stored) if coded else None
        if holder and row.storage_bits < 8 * holder.stored_bytes:
            kept.append(Kept(row.name, row.stored_as, row.storage_bits, holder.dtype, holder.stored_bytes))
    return Shrinkage(len(content), by_type, variable_bytes(folder), report.convention, report.totals.storage_bits, tuple(kept))


def text(found: Shrinkage) -> str:
    """For people: a line a fact, bytes and their share of the SavedModel's variables."""
    claimed = found.claimed_bits / 8
    lines = [
        f"{found.variable_bytes:>12,}  bytes of the SavedModel's variables",
        f"{claimed:>12,.0f}  bytes by the accountant ({found.convention})",
        f"{found.file_bytes:>12,}  bytes of the TFLite file: {found.file_bytes / found.variable_bytes:.2f} of the variables, "
        f"{found.file_bytes / claimed:.2f} of what is counted",
    ]
    lines += [f"{size:>12,}    of them {dtype}" for dtype, size in sorted(found.constants.items(), key=lambda pair: -pair[1])]
    lines.append(f"{found.file_bytes - sum(found.constants.values()):>12,}    of them graph, names and quantization")
    if found.kept:
        stored, counted = sum(each.stored_bytes for each in found.kept), sum(each.claimed_bits for each in found.kept) / 8
        forms = ", ".join(sorted({each.claimed_as for each in found.kept}))
        types = " and ".join(sorted({each.dtype for each in found.kept}))
        lines.append(
            f"not smaller: {len(found.kept)} kernels that are counted as codes ({forms}) stay {types} in a TFLite file, which has no "
            f"such codes: {stored:,} bytes where {counted:,.0f} are counted; tools/export.py --packed writes them so"
        )
    return "\n".join(lines) + "\n"
