"""What the accountant says: rows of exact integers. Text, units and fractions are made in frenzy/render."""

import dataclasses
from fractions import Fraction

Shape = tuple[int, ...]

COUNTED, FREE, FOLDED, UNKNOWN = "counted", "free", "folded", "unknown"  # every Row.status is one of these


class _Exact:
    """Bits as bytes, and what operations cost in the convention's unit, without rounding."""

    storage_bits: int
    operation_bits: int
    unit_parts: int

    @property
    def storage_bytes(self) -> Fraction:
        return Fraction(self.storage_bits, 8)

    @property
    def operations(self) -> Fraction:
        return Fraction(self.operation_bits, self.unit_parts)


@dataclasses.dataclass(frozen=True)
class Row(_Exact):
    """One node of the graph, priced for one image under one convention.

    Shapes are NHWC with a leading 1, the image. `inputs` names the rows that feed this one. What does not apply to an op
    (a kernel, a live channel count) is None, and so is what could not be known without the weights' values.
    Storage is in bits, operations in 1/`unit_parts` of the convention's unit (1/32 of a 32-bit operation, a femtojoule of a
    picojoule): both are whole numbers, exactly.

    stored_as: the form in which the weights of a dot product are cheapest, "2 bits + 3 values" say, where the convention
    looks for it. values: the distinct values of these weights and how often each occurs, if there are at most 256.
    multiply_bits: the widest multiply, where the convention looks at widths.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    groups: int | None = None
    width: int | None = None
    parameters: int = 0
    nonzero: int | None = None
    weight_bits: int | None = None
    live_in: int | None = None
    live_out: int | None = None
    multiplies: int = 0
    adds: int = 0
    storage_bits: int = 0
    operation_bits: int = 0
    formula: str = ""
    status: str = COUNTED
    unit_parts: int = 32
    stored_as: str = ""
    values: tuple[tuple[float, int], ...] | None = None
    multiply_bits: int | None = None


@dataclasses.dataclass(frozen=True)
class Totals(_Exact):
    """Sums over all rows of a report."""

    parameters: int
    storage_bits: int
    multiplies: int
    adds: int
    operation_bits: int
    unit_parts: int = 32


@dataclasses.dataclass(frozen=True)
class Score:
    """The MicroNet challenge's score: storage and operations as shares of the task's baseline."""

    task: str
    storage: Fraction
    operations: Fraction

    @property
    def total(self) -> Fraction:
        return self.storage + self.operations


@dataclasses.dataclass(frozen=True)
class Report:
    """One SavedModel under one convention. `notes` are sentences that a reader of the numbers needs.

    `unit` is what the convention calls its operations, of which a row's `operation_bits` are 1/`unit_parts`; `score` is None
    where it cannot be held against a baseline.
    """

    folder: str
    entry: str
    convention: str
    source: str
    rows: tuple[Row, ...]
    score: Score | None
    notes: tuple[str, ...] = ()
    unit: str = "operations"
    unit_parts: int = 32

    @property
    def totals(self) -> Totals:
        def total(field: str) -> int:
            return sum(getattr(row, field) for row in self.rows)

        sums = {field.name: total(field.name) for field in dataclasses.fields(Totals) if field.name != "unit_parts"}
        return Totals(**sums, unit_parts=self.unit_parts)

    @property
    def unknown(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == UNKNOWN)
