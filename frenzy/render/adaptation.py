"""NetAdapt's steps as a picture and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from frenzy.render import plots

COLUMNS = ("iteration", "group", "channels", "kept", "target", "resource", "before", "accuracy", "loss")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a row; what a row does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def picture(rows: Sequence[Mapping[str, Any]], resource: str, title: str) -> bytes:
    """PNG: held-out accuracy in percent and loss in nats over what is left of the resource; before each fine-tune in grey."""
    figure, (left, right) = plots._figure(2, (9.6, 3.8))
    shares = [100 * row["resource"] / rows[0]["resource"] for row in rows]
    for axes, column, scale, unit in (
        (left, "accuracy", 100, "held-out top-1 accuracy, %"),
        (right, "loss", 1, "held-out loss, nats"),
    ):
        values = [scale * row[column] for row in rows]
        axes.plot(shares, values, plots.BLUE, marker=".", label=f"fine-tuned, last {values[-1]:.2f}")
        axes.set(xlabel=f"{resource}, % of the first network's", ylabel=unit)
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    cut = [(share, 100 * row["before"]) for share, row in zip(shares, rows, strict=True) if "before" in row]
    if cut:
        left.plot(*zip(*cut, strict=True), plots.GREY, marker=".", linestyle="", label="as cut")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return plots._png(figure)
