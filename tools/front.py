#!/usr/bin/env python3
"""Joins sweeps of several seeds into one front: python tools/front.py --sweep_dir runs/seed0 --sweep_dir runs/seed1 --write RESULTS.md.

A sweep's folder is what tools/search.py --sweep wrote. For every budget the table has the networks found by search and those made
narrower alike: mean top-1, least and most, operations, bytes, score; below it every seed's and the commands. --output draws the
front, --write puts table and commands between the marks of a Markdown file. Exit codes: 0 done, 2 bad input.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tools import cli, results

FLAGS = flags.FLAGS
BEGIN, END = "<!-- front: written by tools/front.py -->", "<!-- end of front -->"
PLACES = {"search": "search_{}/found/SavedModel", "uniform": "uniform_{}/SavedModel"}
NAMES = {"search": "found by search", "uniform": "narrower alike"}
HEAD = ("budget", "networks", "top-1, mean", "least to most", "seeds", "operations", "bytes", "score")
SAME = ("network", "dataset", "epochs", "batch_size", "peak_lr", "schedule", "optimizer", "augmentation", "hold_out")


def cards_of(folder: pathlib.Path) -> dict[tuple[str, str], dict]:
    """(kind, share as its folder has it) -> the model card, of all networks of a sweep that are done. Raises UsageError."""
    from frenzy import export

    found = {}
    for kind, place in PLACES.items():
        head, _, tail = place.partition("{}")
        for at in sorted(folder.glob(f"{head}*{tail}")):
            found[kind, at.relative_to(folder).parts[0].removeprefix(head)] = export.read_card(at)
    if not found:
        raise cli.UsageError(f"--sweep_dir={folder}: no network of a sweep is there; tools/search.py --sweep writes one")
    return found


def objective_of(folder: pathlib.Path) -> str:
    """What the shares of a sweep are of."""
    for path in folder.glob("search_*/run.json"):
        return json.loads(path.read_text())["budget"][0]
    raise cli.UsageError(f"--sweep_dir={folder}: no search's run.json is there; tools/search.py --sweep writes one")


def checked(sweeps: Mapping[pathlib.Path, dict[tuple[str, str], dict]]) -> str:
    """The objective of all of them. Raises UsageError where two differ in more than their seed."""
    first, *others = sweeps
    objective = objective_of(first)
    told = {folder: next(iter(cards.values()))["training"]["recipe"] for folder, cards in sweeps.items()}
    for other in others:
        if objective_of(other) != objective:
            raise cli.UsageError(f"--sweep_dir={other} is of {objective_of(other)}, {first} of {objective}; join those of one")
        if told[other]["seed"] == told[first]["seed"]:
            raise cli.UsageError(
                f"--sweep_dir={other} has seed {told[first]['seed']}, as {first} has; give another --seed there"
            )
        apart = [field for field in SAME if told[other][field] != told[first][field]]
        if apart:
            field = apart[0]
            raise cli.UsageError(
                f"--sweep_dir={other} has {field} {told[other][field]}, {first} {told[first][field]}; join runs of one recipe"
            )
    return objective


def points_of(sweeps: Mapping[pathlib.Path, dict[tuple[str, str], dict]], convention: str) -> dict[int, list]:
    """Seed -> its points, by budget. Raises KeyError for a card without counts under the convention."""
    from tools import found

    points: dict[int, list] = {}
    for cards in sweeps.values():
        for (kind, share), card in sorted(cards.items(), key=lambda item: (float(item[0][1]), item[0][0])):
            counts, accuracy = card["counts"][convention], card["accuracy"]
            numbers = (counts["score"], counts["operations"], counts["storage_bytes"], accuracy["top1"], accuracy["n"])
            points.setdefault(card["training"]["recipe"]["seed"], []).append(found.Point(kind, float(share), *numbers))
    return points


def between(values: Sequence[float], text: str) -> str:
    """Least to most; one number where they are alike."""
    low, high = text.format(min(values)), text.format(max(values))
    return low if low == high else f"{low} to {high}"


def markdown(points: Mapping[int, list], objective: str, sweeps: Mapping[pathlib.Path, dict[tuple[str, str], dict]]) -> str:
    """The table of means, the accuracies seed by seed, and the commands."""
    every = [point for own in points.values() for point in own]
    rows = []
    for share, kind in sorted({(point.share, point.kind) for point in every}):
        own = [point for point in every if (point.share, point.kind) == (share, kind)]
        top1 = [point.top1 for point in own]
        rows.append((
            f"{share:g} of the {objective}", NAMES[kind], f"{statistics.mean(top1):.2%}", between(top1, "{:.2%}"), str(len(own)),
            between([point.operations for point in own], "{:,.0f}"), between([point.storage_bytes for point in own], "{:,.0f}"),
            between([point.score for point in own], "{:.5f}"),
        ))  # fmt: skip
    lines = results.table(HEAD, rows)
    for seed, own in sorted(points.items()):
        told = "; ".join(f"{point.share:g} {NAMES[point.kind]} {point.top1:.2%}" for point in own)
        lines.append(f"- seed {seed}, n = {own[0].n:,} test images: {told}")
    for cards in sweeps.values():
        training = next(iter(cards.values()))["training"]
        minutes = sum(card["training"]["seconds"] for card in cards.values()) / 60
        lines.append(
            f"- `{training['command']}`, {training['device']}, {minutes:.0f} minutes of training what was found and its likes"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    from frenzy import export
    from frenzy.render import files
    from tools import found

    if not FLAGS.sweep_dir:
        raise cli.UsageError("no --sweep_dir; give the folder of every sweep, as tools/search.py --sweep wrote it")
    with cli.user_errors(export.ExportError, OSError, ValueError):
        sweeps = {folder: cards_of(folder) for folder in map(pathlib.Path, FLAGS.sweep_dir)}
        objective = checked(sweeps)
    try:
        points = points_of(sweeps, FLAGS.convention)
    except KeyError as e:
        raise cli.UsageError(
            f"--convention={FLAGS.convention}: a card has no {e}; name the one that was searched under"
        ) from None
    text = markdown(points, objective, sweeps)
    print(text, end="")
    recipe = next(iter(next(iter(sweeps.values())).values()))["training"]["recipe"]
    with cli.user_errors(OSError):
        if FLAGS.output:
            every = [point for own in points.values() for point in own]
            files.write(FLAGS.output, found.front_png(every, f"{recipe['network']}, {recipe['dataset']}", objective))
        if FLAGS.write:
            path = pathlib.Path(FLAGS.write)
            files.write(path, results.replaced(path.read_text(), text, BEGIN, END))


if __name__ == "__main__":
    flags.DEFINE_multi_string("sweep_dir", [], "folder of a sweep; may be repeated, one a seed")
    flags.DEFINE_enum("convention", "micronet", ["frenzy", "micronet"], "how operations and weights are counted")
    flags.DEFINE_string("output", None, "PNG file of the front")
    flags.DEFINE_string("write", None, "Markdown file whose front is renewed: RESULTS.md")
    cli.run(main)
