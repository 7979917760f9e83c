#!/usr/bin/env python3
"""Accuracy of a SavedModel, class by class: python tools/evaluate.py --load_folder F [--dataset_name D] [--confusion C.png].

Every test image counts. Works on any SavedModel of normalised float images (n, h, w, 3) to logits (n, classes); how images are
normalised is in its model card, else the dataset's own mean and standard deviation are taken. --confusion draws the matrix of
classes and answers, or writes its counts where the file's name ends in .csv.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import csv
import io
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from absl import flags

from frenzy.render import files, plots
from tools import cli

FLAGS = flags.FLAGS


def table(result: dict) -> str:
    """Totals, then the classes from the worst to the best."""
    lines = [
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%} of {result['n']:,} images of {result['dataset']} ({result['split']})"
    ]
    width = max(map(len, result["classes"]))
    for name, found in sorted(result["classes"].items(), key=lambda pair: pair[1]["accuracy"]):
        wrong = f"most often taken for {found['mistaken_for']}" if found["mistaken_for"] else ""
        lines.append(f"{name:<{width}}  {found['accuracy']:7.2%} of {found['n']:>5,}  {wrong}".rstrip())
    return "\n".join(lines) + "\n"


def by_class(counts: np.ndarray, names: Sequence[str]) -> dict:
    """{name: {'n', 'accuracy', 'mistaken_for'}} of a confusion matrix; classes without images are left out."""
    found = {}
    for number, name in enumerate(names):
        wrong = counts[number].copy()
        right, total = int(wrong[number]), int(wrong.sum())
        wrong[number] = 0
        if total:
            taken = names[int(wrong.argmax())] if wrong.any() else None
            found[name] = {"n": total, "accuracy": right / total, "mistaken_for": taken}
    return found


def matrix_csv(counts: np.ndarray, names: Sequence[str]) -> str:
    """A row a class, a column an answer."""
    text = io.StringIO()
    csv.writer(text).writerows([["class", *names], *([name, *row] for name, row in zip(names, counts.tolist(), strict=True))])
    return text.getvalue()


def signature(folder: pathlib.Path) -> tuple[Callable, Any]:
    """The network as float32 images (n, h, w, 3) -> logits, and the shape that it takes. It has one input and one output."""
    import tensorflow as tf

    with cli.user_errors(OSError, ValueError, KeyError, tf.errors.OpError), cli.hushed():
        loaded = tf.saved_model.load(str(folder))
    if "serving_default" not in loaded.signatures:
        raise cli.UsageError(f"{folder} has no signature serving_default; export the network with tools/export.py")
    serve = loaded.signatures["serving_default"]
    arguments, answers = sorted(serve.structured_input_signature[1]), sorted(serve.structured_outputs)
    if len(arguments) != 1 or len(answers) != 1:
        raise cli.UsageError(
            f"{folder}: serving_default takes {', '.join(arguments)} and gives {', '.join(answers)}; one input of images and one "
            "output of logits can be scored"
        )
    shape = serve.structured_input_signature[1][arguments[0]].shape
    return lambda images, _owner=loaded: serve(**{arguments[0]: images})[answers[0]], shape


def read_card(folder: pathlib.Path) -> dict:
    """The model card; nothing where there is none."""
    from frenzy import export

    if not (folder / export.CARD).is_file():
        return {}
    with cli.user_errors(export.ExportError):
        return export.read_card(folder)


def check_classes(
    folder: pathlib.Path, known: Sequence[str] | None, logits: np.ndarray, name: str, names: Sequence[str]
) -> None:
    """Raises UsageError where the network's classes are not those of the data."""
    if logits.ndim != 2:
        raise cli.UsageError(f"{folder} gives {logits.shape[1:]} for an image, no vector of logits; score another signature")
    if logits.shape[-1] != len(names):
        raise cli.UsageError(f"{folder} knows {logits.shape[-1]} classes and {name} has {len(names)}; name its own dataset")
    if known and (other := next((pair for pair in zip(known, names, strict=False) if pair[0] != pair[1]), None)):
        raise cli.UsageError(f"{folder} has a class {other[0]!r} where {name} has {other[1]!r}; name its own dataset")


def evaluated(folder: pathlib.Path) -> tuple[dict, np.ndarray, tuple[str, ...]]:
    """The result, the confusion matrix and the names of the classes."""
    with cli.hushed():
        import tensorflow as tf

        from frenzy import data
        from frenzy.training import evaluate
    card = read_card(folder)
    name = FLAGS.dataset_name or card.get("dataset")
    if not name:
        raise cli.UsageError(f"{folder} has no model card that names its dataset; name one by --dataset_name")
    predict, shape = signature(folder)
    with cli.user_errors(data.DataError, OSError):
        split = data.load(name, FLAGS.split, FLAGS.data_dir, image_size=FLAGS.image_size, download=FLAGS.download)
    if not shape.is_compatible_with((None, *split.images.shape[1:])):
        raise cli.UsageError(f"{folder} takes {shape} and the images of {name} are {split.images.shape[1:]}; see --image_size")
    stated = card.get("preprocessing", {})
    with cli.user_errors(ValueError, TypeError, tf.errors.OpError):
        logits = evaluate.logits_of(predict, split, stated.get("mean"), stated.get("std"), FLAGS.batch_size)
    check_classes(folder, card.get("class_names"), logits, name, split.class_names)
    counts = evaluate.confusion(logits, split.labels)
    result = {"load_folder": str(folder), "dataset": name, "split": FLAGS.split, **evaluate.accuracies(logits, split.labels)}
    return result | {"classes": by_class(counts, split.class_names)}, counts, split.class_names


def main() -> None:
    folder = pathlib.Path(FLAGS.load_folder)
    if not (folder / "saved_model.pb").is_file():
        raise cli.UsageError(
            f"{folder} is no SavedModel: it holds no saved_model.pb; name the folder that does by --load_folder"
        )
    result, counts, names = evaluated(folder)
    text = json.dumps(result, indent=2) + "\n" if FLAGS.format == "json" else table(result)
    cli.output(text, FLAGS.output)
    if FLAGS.confusion and FLAGS.confusion.endswith(".csv"):
        files.write(FLAGS.confusion, matrix_csv(counts, names))
    elif FLAGS.confusion:
        title = f"{folder.name}: top-1 {result['top1']:.2%} of {result['n']:,}"
        files.write(FLAGS.confusion, plots.confusion_matrix(counts, names, title))


if __name__ == "__main__":
    flags.DEFINE_string("load_folder", "SavedModel/", "folder of the SavedModel")
    flags.DEFINE_string("dataset_name", None, "what to score it on [what its model card says]")
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_bool("download", False, "fetch CIFAR where it is not found")
    flags.DEFINE_integer("image_size", None, "side that folders of images are brought to")
    flags.DEFINE_enum("split", "test", ["test", "train"], "which images")
    flags.DEFINE_integer("batch_size", 250, "images at a time", lower_bound=1)
    flags.DEFINE_enum("format", "table", ["table", "json"], "table for people, json for programs")
    flags.DEFINE_string("output", None, "file to write instead of stdout")
    flags.DEFINE_string("confusion", None, "PNG or CSV file for the confusion matrix")
    cli.run(main)
