"""The submission's own table: 16-bit weights, 1.5 operations a multiply-accumulate, channels known to be zero left out."""

from collections.abc import Sequence
from functools import partial

from frenzy.accounting.conventions.base import (
    FLOAT_BITS,
    HALF,
    NONE,
    Convention,
    Price,
    Size,
    Terms,
    all_at,
    every_element,
    free,
    moved,
)  # fmt: skip
from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.folding import Folding
from frenzy.accounting.rules import Count, Facts, product
from frenzy.accounting.storage import Stored


def _sixteen(stored: Sequence[Stored], terms: Terms) -> Size:
    return all_at(stored, 16)


def _dot(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """n adds for a dot product of n."""
    return Price(facts.macs, facts.macs, all_at(facts.stored, 16))


def _pool(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """3 k^2 (k + pad)^2 an output: fits the three published figures and follows no sensible rule."""
    rows, columns = facts.kernel or (1, facts.window)
    each = product((3, rows, columns, rows + facts.pad[0], columns + facts.pad[1]))
    return Price(adds=Count(each.value * facts.elements.value, f"{each.text} * {facts.elements.text}"), label="fitted")


def _sum(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(adds=facts.elements.times(facts.window - 1) if facts.window > 1 else NONE)


_elements = partial(every_element, stored=_sixteen)

FRENZY = Convention(
    name="frenzy",
    source="Matas et al., Frenzy: ARM ML Research MicroNet Submission, 2019 (average pools: a rule fitted to its figures)",
    prices={
        **{kind: _elements(*each) for kind, each in ELEMENTARY.items()},
        "add": _elements(0, 1),
        "average_pool": _pool,
        "batch_norm": free,
        "bias": _elements(0, 1),
        "dot": _dot,
        "free": moved(16),
        "max_pool": free,
        "relu": free,
        "relu6": free,
        "softmax": free,
        "sum": _sum,
    },
    multiply=HALF,
    scored=True,
    score_bits=FLOAT_BITS,  # its score counts whole parameters, though its MS counts 16 bits
)
