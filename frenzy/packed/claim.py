"""Why a packed file is as large as it is: from the accountant's figure to the file's bytes, term by term."""

import dataclasses
import os

import numpy as np

from frenzy.accounting import CONVENTIONS, Report, accounts, read
from frenzy.accounting.account import find_facts
from frenzy.accounting.checkpoint import Values
from frenzy.accounting.conventions.forms import whole_form
from frenzy.packed.codes import plain
from frenzy.packed.container import Sizes
from frenzy.packed.network import stored

CLAIM = "micronet"
HEADER_BYTES, HEADER_BYTES_A_TENSOR = 4096, 64


@dataclasses.dataclass(frozen=True)
class Term:
    """Bits that stand between two figures."""

    text: str
    bits: int


def allowed_header(sizes: Sizes, maps: int = 0) -> int:
    """Bytes that may stand before the tensors: 4 KiB, and 64 a tensor; the range of a quantized map is one."""
    return HEADER_BYTES + HEADER_BYTES_A_TENSOR * (sizes.tensors + maps)


def stored_bits(array: np.ndarray) -> int:
    """What a tensor takes in its cheapest form, before its codes are filled up to bytes."""
    form = whole_form(plain(array))
    return form.bits(array.size, int(np.count_nonzero(array)))


def _bits(report: Report, norms: set[str]) -> tuple[int, int]:
    """The storage of batch normalisations, and of all else."""
    inside = sum(row.storage_bits for row in report.rows if row.name in norms)
    return inside, report.totals.storage_bits - inside


def terms(folder: str | os.PathLike, sizes: Sizes) -> tuple[Term, ...]:
    """The storage of a SavedModel under `micronet`, and all that its packed file has besides; their sum is the file's size."""
    graph = read(folder)
    every = dataclasses.replace(CONVENTIONS[CLAIM], name="every channel", live=False)
    wide = dataclasses.replace(every, name="no allowance", allowance=False)
    claimed, channels, widths = accounts(graph, [CONVENTIONS[CLAIM], every, wide]).values()
    facts = find_facts(graph, Values(graph.folder), live=False).facts
    norms = {name for name, each in facts.items() if each.kind == "batch_norm"}
    named = {s.name for each in facts.values() if each.kind != "batch_norm" for s in each.stored}
    tensors = {name: stored_bits(array) for name, array in stored(graph).items()}
    statistics = sum(bits for name, bits in tensors.items() if name not in named)
    rest = sum(tensors.values()) - statistics
    norm_bits, other_bits = _bits(widths, norms)
    storage = [report.totals.storage_bits for report in (claimed, channels, widths)]
    found = [
        Term(f"storage under {CLAIM}", storage[0]),
        Term("channels that are known to be zero or constant", storage[1] - storage[0]),
        Term("numbers at the width of their type, without the 16-bit allowance", storage[2] - storage[1]),
        Term("batch normalisation: all that it stores, not folded", statistics - norm_bits),
        Term("codes and masks of tensors outside of dot products", rest - other_bits),
        Term("codes filled up to bytes, tensor by tensor", 8 * sizes.payload_bytes - sum(tensors.values())),
        Term("header: names, shapes, forms, SHA-256, the card", 8 * sizes.header_bytes),
    ]
    return (found[0], *(term for term in found[1:] if term.bits))
