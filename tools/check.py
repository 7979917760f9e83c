#!/usr/bin/env python3
"""Holds a SavedModel against its model card: python tools/check.py [--load_folder SavedModel/]. Needs no data.

The variables' SHA-256, the counts of every convention, and the logits on a fixed input.
Exit codes: 0 all hold, 1 one does not, 2 bad input, 130 interrupted.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.accounting import accounts, read
from tools import cli

FLAGS = flags.FLAGS
TOLERANCE = 1e-3  # of a logit; what other processors' convolutions may differ by


def read_card(folder: pathlib.Path, path: pathlib.Path) -> dict:
    if not folder.is_dir():
        raise cli.UsageError(f"no folder {folder}; --load_folder takes the folder of a SavedModel that this project exported")
    try:
        card = json.loads((folder / path).read_text())
        return {key: card[key] for key in ("counts", "golden_logits", "input_shape", "task", "variables_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = f"{type(e).__name__}: {e}"
        raise cli.UsageError(
            f"{folder / path} is no model card to check against ({reason}); export the network again"
        ) from None


def findings(folder: pathlib.Path):
    """(what, whether it holds, in words) of everything that the card claims and this machine can check."""
    with cli.hushed():
        import tensorflow as tf

        from frenzy import export
    card = read_card(folder, export.CARD)
    for name, report in accounts(read(folder), card["counts"], card["task"]).items():
        claim = card["counts"][name]
        found = {"storage_bytes": float(report.totals.storage_bytes), "operations": float(report.totals.operations)}
        holds = all(found[key] == claim[key] for key in found) and not report.unknown
        yield f"counts, {name}", holds, f"{found['storage_bytes']:,.0f} bytes, {found['operations']:,.0f} operations"
    same = export.variables_sha256(folder) == card["variables_sha256"]
    yield "variables", same, "SHA-256 as in the card" if same else "SHA-256 is not the card's"
    with cli.user_errors(OSError, ValueError, tf.errors.OpError), cli.hushed():
        serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
        logits = serve(images=tf.constant(export.fixed_images(card["input_shape"])))["logits"].numpy()[0]
    worst = max(abs(logits - card["golden_logits"]))
    yield "logits", bool(worst <= TOLERANCE), f"on the fixed input, largest difference {worst:.1e}"


def main() -> int:
    failed = 0
    for what, holds, words in findings(pathlib.Path(FLAGS.load_folder)):
        print(f"{'ok' if holds else 'WRONG':<6} {what:<18} {words}")
        failed += not holds
    return 1 if failed else 0


if __name__ == "__main__":
    flags.DEFINE_string("load_folder", "SavedModel/", "folder of the SavedModel")
    cli.run(main)
