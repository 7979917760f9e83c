#!/usr/bin/env python3
"""Scores every committed SavedModel again and holds it against its card: python tools/results.py [--write RESULTS.md].

Looks at SavedModel/ and at every folder of zoo/. Fails where an accuracy is off its card's by more than 0.05 points. --write
puts the tables of all cards between the marks of a Markdown file: networks, those that were compressed, and energies.
Exit codes: 0 all hold, 1 one does not, 2 bad input.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterable, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.accounting import account, accounts, read
from frenzy.render import files
from tools import cli

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- networks: written by tools/results.py -->", "<!-- end of networks -->"
TOLERANCE = 0.05  # percentage points
CONVENTION, ENERGIES = "micronet", ("energy-45nm", "energy-45nm-memory")
PICOJOULES = 10**6  # of a microjoule
HEAD = ("network", "data", "top-1", "top-5", "parameters", "epochs", "trained on", "minutes", "date", "folder")
COMPRESSED = ("folder", "method", "top-1", "before", "zeros", "MS, bytes", "OC", "score", "packed, bytes")


def folders(root: pathlib.Path) -> list[pathlib.Path]:
    """SavedModel/, then those of zoo/ by name."""
    found = [root / "SavedModel", *sorted((root / "zoo").glob("*"))]
    return [folder for folder in found if (folder / "saved_model.pb").is_file()]


def epochs(training: dict) -> list[int]:
    """Of a run, behind those of the runs that it continues."""
    before = training.get("continued")
    return [*(epochs(before) if before else []), training["recipe"]["epochs"]]


def row(card: dict, folder: str) -> tuple[str, ...]:
    """A line of the table: the card's, and the parameters as the graph on disk has them (two a BN channel)."""
    parameters = account(read(ROOT / folder), "macs").totals.parameters
    training, accuracy = card["training"], card["accuracy"]
    recipe, seconds = training["recipe"], training.get("seconds")
    return (
        recipe["network"],
        card["dataset"],
        f"{accuracy['top1']:.2%}",
        f"{accuracy['top5']:.2%}",
        f"{parameters:,}",
        " + ".join(map(str, epochs(training))),
        training["device"],
        f"{seconds / 60:.0f}{', the last' * ('continued' in training)}" if seconds else "not measured",
        accuracy["date"],
        f"`{folder}/`",
    )


def compressed_row(card: dict, folder: str) -> tuple[str, ...]:
    """A line of the table of compressed networks: what the method did, counted from the graph on disk, and the packed file."""
    from frenzy import packed

    done, report = card["compression"], account(read(ROOT / folder), CONVENTION)
    with tempfile.TemporaryDirectory() as scratch:
        size = packed.pack(ROOT / folder, pathlib.Path(scratch) / "packed").file_bytes
    before, options = done["top1_before"], " ".join(f"{name} {value}" for name, value in done["options"].items())
    return (
        f"`{folder}/`",
        f"{done['method']} {options}".strip(),
        f"{card['accuracy']['top1']:.2%}",
        "not known" if before is None else f"{before:.2%}",
        f"{done['zeros']:,} of {done['weights']:,} ({done['zeros'] / done['weights']:.1%})",
        f"{float(report.totals.storage_bytes):,.0f}",
        f"{float(report.totals.operations) / 1e6:,.3f} M",
        f"{float(report.score.total):.5f}" if report.score else "none",
        f"{size:,}",
    )


def energy_row(folder: str) -> tuple[str, ...]:
    """A line of the table of energies: microjoules an image for the arithmetic, and with every weight read once."""
    found = accounts(read(ROOT / folder), ENERGIES)
    return (f"`{folder}/`", *(f"{float(found[name].totals.operations) / PICOJOULES:,.2f}" for name in ENERGIES))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def commands(training: dict, last: str) -> list[str]:
    """The command of a run, behind those of the runs that it continues."""
    before = training.get("continued")
    return [*(commands(before, before["command"]) if before else []), last]


def markdown(cards: dict[str, dict]) -> str:
    """The tables, and below them the command and the versions of each row."""
    lines = table(HEAD, (row(card, folder) for folder, card in cards.items()))
    small = {folder: card for folder, card in cards.items() if "compression" in card}
    if small:
        lines += table(COMPRESSED, (compressed_row(card, folder) for folder, card in small.items()))
    lines += table(("uJ an image", *ENERGIES), (energy_row(folder) for folder in cards))
    for folder, card in cards.items():
        versions = ", ".join(f"{name} {version}" for name, version in card["training"]["versions"].items())
        accuracy = card["accuracy"]
        lines.append(
            f"- `{folder}/`: n = {accuracy['n']:,} test images, 1 run, seed {card['training']['recipe']['seed']}, {versions}:\n"
            f"  `{' && '.join(commands(card['training'], card['command']))}`"
        )
    return "\n".join(lines) + "\n"


def replaced(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """A Markdown text with what stands between the marks replaced."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise cli.UsageError(f"{FLAGS.write} needs one line '{begin}' and, behind it, one '{end}'")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{table}\n{end}{rest.split(end)[1]}"


def off(folder: pathlib.Path, card: dict) -> float:
    """Percentage points by which the accuracy measured now differs from the card's."""
    import tensorflow as tf

    from frenzy import data
    from frenzy.training import evaluate

    split = data.load(card["dataset"], card["accuracy"]["split"], FLAGS.data_dir)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    pixels = card["preprocessing"]
    logits = evaluate.logits_of(lambda images: serve(images=images)["logits"], split, pixels["mean"], pixels["std"])
    return 100 * abs(evaluate.accuracies(logits, split.labels)["top1"] - card["accuracy"]["top1"])


def main() -> int:
    with cli.hushed():
        import tensorflow as tf

        from frenzy import data, export
    cards, failed = {}, 0
    with cli.user_errors(export.ExportError, data.DataError, KeyError, OSError, ValueError, tf.errors.OpError):
        for folder in folders(ROOT):
            name = str(folder.relative_to(ROOT))
            cards[name] = card = export.read_card(folder)
            if FLAGS.score:
                with cli.hushed():
                    difference = off(folder, card)
                holds = difference <= TOLERANCE
                failed += not holds
                print(
                    f"{'ok' if holds else 'WRONG':<6} {name:<40} {card['accuracy']['top1']:.2%} in the card, off by {difference:.2f}"
                )
    if FLAGS.write:
        path = pathlib.Path(FLAGS.write)
        with cli.user_errors(OSError):
            files.write(path, replaced(path.read_text(), markdown(cards)))
    return 1 if failed else 0


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_string("write", None, "Markdown file whose table is renewed")
    flags.DEFINE_bool("score", True, "score the networks on their test images")
    cli.run(main)
