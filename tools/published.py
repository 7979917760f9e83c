"""Every count that the documents print, beside what the accountant reads off the exported network, and why they differ."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from frenzy.accounting.report import Report
from tools import cli


@dataclasses.dataclass(frozen=True)
class Figure:
    """A printed figure: whose, of which zoo network, what, its value, and how it comes about."""

    document: str
    network: str
    what: str
    printed: float
    convention: str
    why: str
    digits: int = 0  # decimals that the document rounds to; 0: it is printed in full


WIDTH = 80
PARAMETERS, OPERATIONS, STORAGE, SCORE = "parameters", "operations", "bytes", "score"
READ: dict[str, Callable[[Report], Fraction]] = {
    PARAMETERS: lambda report: Fraction(report.totals.parameters),
    OPERATIONS: lambda report: report.totals.operations,
    STORAGE: lambda report: report.totals.storage_bytes,
    SCORE: lambda report: report.score.total if report.score else Fraction(0),
}

# fmt: off
FIGURES = (
    Figure("Frenzy", "frenzy", OPERATIONS, 828_928_000, "frenzy", "channels known to be zero are left out; pools carried as published"),
    Figure("Frenzy", "frenzy", STORAGE, 8_839_600, "frenzy", "printed 8.43 MB, which is MiB: 2 bytes a live conv weight"),
    Figure("Frenzy", "frenzy", SCORE, 0.2, "frenzy", "parameters whole, though stored at 16 bits; halved it would be 0.1396", 1),
    Figure("Frenzy, judges", "frenzy", SCORE, 0.1368, "micronet",
           "theirs is 8.43e6 bytes / (4 x 36.5e6) + 828.928e6 / 10.49e9; by the rules BN behind an ADD costs, and ReLU", 4),
    Figure("WRN-22-6", "wrn_22_6", PARAMETERS, 9_693_108, "torchstat", "convs, dense layer with bias, two a BN channel"),
    Figure("WRN-22-6", "wrn_22_6", OPERATIONS, 2_075_705_692, "torchstat",
           "multiplies at half; BN, ReLU and sums free; the pool adds n, not n - 1"),
    Figure("WRN-22-6", "wrn_22_6", SCORE, 0.46343, "torchstat", "parameters whole; printed cut off, not rounded", 5),
    Figure("MicroNet baseline", "wrn_28_10", PARAMETERS, 36.5e6, "micronet-baseline", "two parameters a BN channel", -5),
    Figure("MicroNet baseline", "wrn_28_10", OPERATIONS, 10.49e9, "micronet-baseline",
           "every BN folded for nothing: behind an ADD it cannot be", -7),
    Figure("MicroNet baseline", "wrn_28_10", OPERATIONS, 10.49e9, "micronet-baseline-bn",
           "every BN a scale and a shift; rounds to the same", -7),
    Figure("IR-NET, table 4", "irnet_a", OPERATIONS, 193_898_304, "macs",
           "the total is right; its row 24->40 (5,494,272) is a slip, the row is 10,913,280: the expansion works at the input's size"),
    Figure("IR-NET, table 4", "irnet_a", PARAMETERS, 24_876_208, "irnet-table4",
           "depthwise convs counted as dense, the dense layer left out"),
    Figure("IR-NET, table 4", "irnet_a", PARAMETERS, 24_876_208, "macs", "what is really there, biases and BN included"),
    *(
        Figure("MicroBotNet", network, what, printed, convention, why)
        for network, rows in {
            "microbotnet_x1.00": ((PARAMETERS, 2_044_298, "thop", "as printed"),
                                  (OPERATIONS, 6_597_218, "thop", "printed as MACs, and is none"),
                                  (OPERATIONS, 6_597_218, "macs", "the true multiply-accumulates")),
            "microbotnet_x0.32": ((PARAMETERS, 236_658, "thop", "as printed"),
                                  (OPERATIONS, 932_886, "thop", "printed as MACs, and is none"),
                                  (OPERATIONS, 932_886, "macs", "the true multiply-accumulates: 16 % fewer"),
                                  (OPERATIONS, 787_194, "torchinfo", "torchinfo 1.8, run on the same network"),
                                  (OPERATIONS, 844_864, "fvcore", "fvcore, run on the same network; 97 activations and sums unsupported"),
                                  (OPERATIONS, 901_696, "thop-0.1.1", "thop 0.1.1, run on the same network")),
        }.items()
        for what, printed, convention, why in rows
    ),
)
# fmt: on


def terms(report: Report) -> str:
    """Operations by op, dearest first: Conv2D 694,144 + ..."""
    sums: dict[str, Fraction] = {}
    for row in report.rows:
        if row.operations:
            sums[row.op] = sums.get(row.op, Fraction(0)) + row.operations
    ordered = sorted(sums.items(), key=lambda pair: -pair[1])
    return " + ".join(f"{op} {float(value):,.15g}" for op, value in ordered)


def verdict(figure: Figure, value: Fraction) -> str:
    """Whether our value is the printed one, to the digit or as it was rounded or cut off."""
    if value == Fraction(figure.printed):
        return "equal"
    unit = 10.0**-figure.digits
    if figure.digits and abs(float(value) - figure.printed) < unit:
        return "equal as rounded"
    return f"{float(value / Fraction(figure.printed) - 1):+.2%}"


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def lines(reports: Callable[[str, Iterable[str]], dict[str, Report]]) -> Iterator[str]:
    """The figures, network by network; reports(network, conventions) counts one."""
    for network in dict.fromkeys(figure.network for figure in FIGURES):
        figures = [figure for figure in FIGURES if figure.network == network]
        found = reports(network, dict.fromkeys(figure.convention for figure in figures))
        for figure in figures:
            report = found[figure.convention]
            value = READ[figure.what](report)
            ours = f"{float(value):.7f}" if figure.what == SCORE else f"{float(value):,.15g}"
            printed = f"printed {figure.printed:,.15g}, here {ours}: {verdict(figure, value)}"
            yield from _wrapped(f"{figure.document} ({network}), {figure.what}: {printed}", "")
            yield from _wrapped(f"convention {figure.convention}: {figure.why}")
            if figure.what == OPERATIONS:
                yield from _wrapped(f"= {terms(report)}")


def reconciled() -> str:
    """lines() of networks that are built and exported now, which takes a minute."""
    with cli.hushed():
        from frenzy import export, models

    def reports(network: str, conventions: Iterable[str]) -> dict[str, Report]:
        with cli.hushed():
            return export.account_model(models.build(network), list(conventions))

    return "\n".join(lines(reports)) + "\n"
