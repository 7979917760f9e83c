"""Tensors and what else is known of a network <-> the bytes of a safetensors file.

The file has three arrays at most: `float16` and `float32`, the numbers of all tensors one behind the other, and `codes`, their
bits, each tensor's filled up to bytes. Its metadata is one JSON text, `frenzy`: the facts, and for every layer a line

    "block1_bn": "1 24 d16 <SHA-256> d16 <SHA-256> ..."     which of the lists in "weights" names its tensors, and of each
                                                            its shape (unless it is that of the one before), form and SHA-256

SHA-256 are in base64, of a tensor's little-endian values; that of the JSON text itself is its last entry.
"""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from frenzy.packed.codes import PackedError, Source, code_of, decode, encode, plain

FORMAT = 1
KEY = "frenzy"
ARRAYS: dict[str, tuple[str, np.dtype]] = {
    "float16": ("F16", np.dtype("<f2")),
    "float32": ("F32", np.dtype("<f4")),
    "codes": ("U8", np.dtype("u1")),
}
OWN = ("format", "weights", "layers", "sha256")  # metadata that are not the caller's
SHAPE = re.compile(r"[1-9]\d{0,9}(x[1-9]\d{0,9}){0,7}|-")
NAME = re.compile(r"[^\s/]+/\S+")
PREFIX_BYTES = 8  # the length of the header


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a file: its tensors, the bytes of their numbers and codes, the bytes of all that stands before, and the bits of both
    as forms price them, before they are filled up to bytes."""

    tensors: int
    payload_bytes: int
    header_bytes: int
    payload_bits: int

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.payload_bytes


def digest(content: bytes) -> str:
    """SHA-256 in 43 characters."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _digest(array: np.ndarray) -> str:
    """Of a tensor's little-endian values, its zeros without sign."""
    values = plain(array)
    return digest(values.astype(values.dtype.newbyteorder("<")).tobytes())


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dump(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[bytes, Sizes]:
    """Tensors by name, "layer/weight", and JSON facts -> the bytes of a file. The same give the same bytes.

    Raises PackedError with the name of a tensor that cannot be packed.
    """
    if taken := next((key for key in OWN if key in facts), None):
        raise PackedError(f"fact {taken!r} has a name that the format itself needs; rename it")
    if odd := next((name for name in tensors if not NAME.fullmatch(name)), None):
        raise PackedError(f"tensor {odd!r}: names are layer/weight; export the network by tools/export.py")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(tensors):
        layer, _, weight = name.partition("/")
        by_layer.setdefault(layer, {})[weight] = tensors[name]
    kinds = sorted({" ".join(weights) for weights in by_layer.values()})
    layers, bits = {}, 0
    for layer, weights in by_layer.items():
        words, last = [str(kinds.index(" ".join(weights)))], ""
        for weight, array in weights.items():
            try:
                coded = encode(array)
            except PackedError as e:
                raise PackedError(f"tensor {layer}/{weight}: {e}") from None
            shape = "x".join(map(str, array.shape)) or "-"
            words += [] if shape == last else [shape]
            words += [coded.code.word, _digest(array)]
            last = shape
            parts[f"float{coded.code.number_bits}"].append(coded.numbers)
            parts["codes"].append(np.packbits(coded.bits, bitorder="little"))
            bits += coded.numbers.size * coded.code.number_bits + coded.bits.size
        layers[layer] = " ".join(words)
    text = _json({"format": FORMAT, **facts, "weights": kinds, "layers": layers})
    text = f'{text[:-1]},"sha256":"{digest(text.encode())}"}}'
    arrays = {name: np.concatenate(each).astype(ARRAYS[name][1]) for name, each in parts.items() if sum(map(len, each))}
    data = safetensors.numpy.save(arrays, {KEY: text})
    payload = sum(array.nbytes for array in arrays.values())
    return data, Sizes(len(tensors), payload, len(data) - payload, bits)


def load(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The reverse: facts, and tensors by name in their own types. Nothing in the file is run.

    Raises PackedError: every byte of the header and of every tensor is accounted for by a SHA-256.
    """
    arrays, text = _open(data)
    facts = _facts(text)
    kinds, layers = facts.pop("weights"), facts.pop("layers")
    lists = isinstance(kinds, list) and isinstance(layers, dict)
    if not lists or not all(isinstance(each, str) for each in (*kinds, *layers.values())):
        raise PackedError('its "weights" and "layers" are no lists of words; the file is damaged: copy it again')
    sources = {name: Source(arrays.get(name, np.zeros(0, dtype))) for name, (_, dtype) in ARRAYS.items()}
    tensors: dict[str, np.ndarray] = {}
    for layer, line in layers.items():
        tensors |= _layer(layer, line.split(" "), kinds, sources)
    for name, source in sources.items():
        if source.left:
            raise PackedError(f"{source.left:,} elements of {name} belong to no tensor; the file is damaged: copy it again")
    return facts, tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _parse(text: str | bytes, what: str) -> Any:
    """JSON without names that stand twice and without NaN. Raises PackedError."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
        raise PackedError(
            f"its {what} is no JSON ({' '.join(str(e).split())[:100]}); the file is damaged: copy it again"
        ) from None


def _open(data: bytes) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a safetensors file, none but ours, and its metadata's text. Raises PackedError."""
    try:
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as e:
        reason = " ".join(str(e).split()).removeprefix("Error while deserializing").partition(": ")[2][:120]
        raise PackedError(f"it is no safetensors file ({reason}); it is damaged or truncated: copy it again") from None
    length = int.from_bytes(data[:PREFIX_BYTES], "little")
    header = _parse(data[PREFIX_BYTES : PREFIX_BYTES + length], "header")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or list(metadata) != [KEY]:
        raise PackedError(
            f"its metadata are not those of a packed network ('{KEY}' alone); pack one with tools/export.py --packed"
        )
    arrays = {}
    for name, entry in entries.items():
        wanted = name in ARRAYS and entry["dtype"] == ARRAYS[name][0] and len(entry["shape"]) == 1
        if not wanted or set(header[name]) != {"dtype", "shape", "data_offsets"}:
            raise PackedError(
                f"array {name[:40]!r} is {entry['dtype']} {entry['shape']}; allowed are flat ones: float16, float32 and codes (U8)"
            )
        arrays[name] = np.frombuffer(bytes(entry["data"]), ARRAYS[name][1])
    return arrays, metadata[KEY]


def _facts(text: str) -> dict[str, Any]:
    """The metadata, its own SHA-256 checked."""
    facts = _parse(text, "metadata")
    if not isinstance(facts, dict) or list(facts)[:1] != ["format"] or facts["format"] != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise PackedError(f"its format is {str(found)[:20]!r}; this version reads {FORMAT}: pack the network again")
    body, mark, _ = text.rpartition(',"sha256":"')
    claimed = facts.pop("sha256", None)
    if not mark or claimed != digest(f"{body}}}".encode()) or text != f'{body}{mark}{claimed}"}}':
        raise PackedError("the SHA-256 of its metadata is another; the file is damaged: copy it again")
    if missing := [key for key in OWN[1:-1] if key not in facts]:
        raise PackedError(f"its metadata lack {', '.join(missing)}; pack the network again")
    del facts["format"]
    return facts


def _layer(layer: str, words: list[str], kinds: list[str], sources: Mapping[str, Source]) -> dict[str, np.ndarray]:
    """The tensors of a layer's line."""
    kind, *rest = words
    if not (kind.isascii() and kind.isdigit() and len(kind) < 4 and int(kind) < len(kinds)):
        raise PackedError(f"layer {layer}: {kind[:20]!r} names none of its {len(kinds)} lists of weights; the file is damaged")
    found, shape = {}, ""
    for weight in kinds[int(kind)].split(" "):
        name = f"{layer}/{weight}"
        try:
            if rest and SHAPE.fullmatch(rest[0]):
                shape, *rest = rest
            if len(rest) < 2 or not shape:
                raise PackedError("it has no shape, form and SHA-256; the file is damaged")
            word, expected, *rest = rest
            found[name] = _tensor(shape, word, expected, sources)
        except PackedError as e:
            raise PackedError(f"tensor {name}: {e}") from None
    if rest:
        raise PackedError(f"layer {layer} describes more tensors than it has; the file is damaged")
    return found


def _tensor(shape: str, word: str, expected: str, sources: Mapping[str, Source]) -> np.ndarray:
    dims = tuple(map(int, shape.split("x"))) if shape != "-" else ()
    code = code_of(word)
    size = 1
    for dim in dims:
        size *= dim
    numbers, stream = sources[f"float{code.number_bits}"], sources["codes"]
    if size > max(numbers.left, 8 * stream.left):  # every form takes a bit an element at least
        raise PackedError(f"its shape {shape} asks for {size:,} elements, more than the file holds; the file is damaged")
    array = decode(code, size, numbers, stream).reshape(dims)
    if _digest(array) != expected:
        raise PackedError("its SHA-256 is another; the file is damaged: copy it again")
    return array.astype(array.dtype.newbyteorder("="))
