"""Exact numbers as text. Counts stay integers and fractions up to here; this is the one place where they are rounded.

Rounding is to three decimals, half to even, and never hides a number: what is not zero does not print as zero.
"""

from fractions import Fraction

from frenzy.accounting.report import Shape

Number = int | Fraction

BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
SPOKEN = {"DepthwiseConv2dNative": "DepthwiseConv", "Placeholder": "Input"}
COUNTS = ("", "k", "M", "G", "T")


def exact(value: Number) -> int | float:
    """A whole number as an int, any other as the nearest float: exact where the denominator is a small power of two."""
    return int(value) if Fraction(value).denominator == 1 else float(value)


def decimals(value: Number, places: int = 3) -> str:
    """Fixed point: 1/3 -> "0.333". A value that would print as zero and is not prints as "<0.001"."""
    digits = round(Fraction(value) * 10**places)
    if value and not digits:
        return f"<{1 / 10**places:.{places}f}" if value > 0 else f">-{1 / 10**places:.{places}f}"
    sign, digits = "-" * (digits < 0), abs(digits)
    whole, rest = divmod(digits, 10**places)
    return f"{sign}{whole:,}.{rest:0{places}}" if places else f"{sign}{whole:,}"


def _scaled(value: Number, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while power < len(names) - 1 and round(abs(Fraction(value)) / base**power, 3) >= base:
        power += 1
    scaled = Fraction(value) / base**power
    text = grouped(value) if power == 0 and scaled.denominator == 1 else decimals(scaled)
    return f"{text} {names[power]}".rstrip()


def size(storage_bytes: Number) -> str:
    """8839600 -> "8.430 MiB", 600 -> "600 B"; 1 MiB is 2^20 bytes."""
    return _scaled(storage_bytes, 1024, BYTES)


def count(value: Number) -> str:
    """828928000 -> "828.928 M", 600 -> "600"; 1 M is 10^6."""
    return _scaled(value, 1000, COUNTS)


def brief(value: Number, base: int = 1000, names: tuple[str, ...] = COUNTS) -> str:
    """Three digits, for columns side by side: 828928000 -> "829 M"; with 1024 and BYTES, 1001 KiB -> "0.978 MiB"."""
    power = 0
    while power < len(names) - 1 and round(abs(Fraction(value)) / base**power) >= 1000:
        power += 1
    scaled = Fraction(value) / base**power
    if power == 0 and scaled.denominator == 1:
        return f"{grouped(value)} {names[0]}".rstrip()
    places = next((places for places, least in enumerate((100, 10, 1)) if round(abs(scaled), places) >= least), 3)
    return f"{decimals(scaled, places)} {names[power]}".rstrip()


def brief_size(storage_bytes: Number) -> str:
    """8839600 -> "8.43 MiB": at most nine characters, and a sign."""
    return brief(storage_bytes, 1024, BYTES)


def grouped(value: Number) -> str:
    """Every digit: 8839600 -> "8,839,600", 13/2 -> "6.5"."""
    return f"{exact(value):,}"


def percent(part: Number, whole: Number) -> str:
    """Share of a whole to one decimal: "16.7%"; of nothing, "-"."""
    return f"{decimals(Fraction(part) * 100 / Fraction(whole), 1)}%" if whole else "-"


def hwc(shape: Shape) -> str:
    """A shape without its leading 1, the image: (1, 32, 32, 3) -> "32x32x3"; () -> "scalar"."""
    return "x".join(map(str, shape[1:] or shape)) or "scalar"


def pair(sides: tuple[int, int] | None) -> str:
    """(3, 3) -> "3x3"; None -> ""."""
    return "x".join(map(str, sides)) if sides else ""


def step(stride: tuple[int, int] | None) -> str:
    """A stride, shortly: (2, 2) -> "2", (2, 1) -> "2x1", None -> ""."""
    return str(stride[0]) if stride and stride[0] == stride[1] else pair(stride)


def op_name(op: str) -> str:
    """TensorFlow's op names as people say them: FusedBatchNormV3 -> BatchNorm, AddV2 -> Add."""
    if op.startswith("FusedBatchNorm"):
        return "BatchNorm"
    if op in SPOKEN:
        return SPOKEN[op]
    name = op.rstrip("0123456789")
    return name[:-1] if name != op and name.endswith("V") else op


def shortened(text: str, width: int) -> str:
    """Cut in the middle: ("block4_shortcut_pool", 12) -> "block..._pool"; both ends of a node's name say what it is."""
    if len(text) <= width:
        return text
    kept = max(width - 3, 2)
    return f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"
