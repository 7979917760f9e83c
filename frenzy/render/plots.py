"""Curves and matrices as PNG. matplotlib without a display; imported where it is needed, because it is slow to start."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

Row = Mapping[str, float]

CURVES = (12.0, 3.8)  # inches
DPI = 120
BLUE, ORANGE, GREY = "#1f6feb", "#d9730d", "#57606a"
LABELS_UP_TO = 30  # classes whose names can be read beside a matrix


def _figure(columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    return figure, figure.subplots(1, columns)


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _line(axes, rows: Sequence[Row], column: str, label: str, colour: str, scale: float = 1.0, last: str = ".2f") -> None:
    """A column over epochs, its last value in the legend; nothing where no row has it."""
    having = [row for row in rows if column in row]
    if having:
        values = [row[column] * scale for row in having]
        marker = "." if len(having) < 40 else ""
        axes.plot([row["epoch"] for row in having], values, colour, marker=marker, label=f"{label}: {values[-1]:{last}}")


def learning_curves(rows: Sequence[Row], title: str) -> bytes:
    """Accuracy in percent, loss in nats and learning rate over epochs, on training images and, where there are such, on held-out
    ones. The legends name the last values."""
    from matplotlib.ticker import MaxNLocator

    figure, (left, middle, right) = _figure(3, CURVES)
    for axes, column, unit, scale, last in (
        (left, "accuracy", "top-1 accuracy, %", 100, ".2f"),
        (middle, "loss", "loss, nats", 1, ".3f"),
    ):
        _line(axes, rows, column, "training, augmented", BLUE, scale, last)
        _line(axes, rows, f"val_{column}", "held out", ORANGE, scale, last)
        axes.set_ylabel(unit)
    _line(right, rows, "lr", "last step's", GREY, last=".3g")
    right.set_ylabel("learning rate")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return _png(figure)


def rate_curve(rates: Sequence[float], losses: Sequence[float], suggested: float, title: str) -> bytes:
    """Loss over the learning rate of a range test, and the rate that it suggests."""
    figure, axes = _figure(1, (6.0, 4.0))
    axes.plot(rates, losses, BLUE)
    axes.axvline(suggested, color=ORANGE, linestyle="--", label=f"steepest: {suggested:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed, nats", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _png(figure)


def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """Shares of each class's images by answer; counts (classes, classes), rows the truth. Names where they can be read.

    Colours go by the square root of the share, or a few errors in a hundred would not be seen.
    """
    from matplotlib.colors import PowerNorm

    few = len(names) <= LABELS_UP_TO
    side = max(5.0, 0.42 * len(names)) if few else 9.0
    figure, axes = _figure(1, (side + 1.2, side))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set(xlabel="answer", ylabel="class", title=title)
    if few:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "w" if shares[row, column] > 0.25 else "k"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    ticks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    bar = figure.colorbar(image, label="share of the class's images", shrink=0.8, ticks=ticks)
    bar.ax.set_yticklabels(f"{tick:.0%}" for tick in ticks)
    return _png(figure)
