"""What tools/export.py --tflite [--int8] does: a TFLite file, scored through the interpreter, and where its bytes are."""

import pathlib

import numpy as np
from absl import flags

from tools import cli

FLAGS = flags.FLAGS
CALIBRATE_ON = 500  # training images, evenly spaced over the set
CONVENTION = "micronet"


def define_flags() -> None:
    flags.DEFINE_string("tflite", None, "write the network to this TFLite file, by TensorFlow's converter")
    flags.DEFINE_bool("int8", False, "weights and maps of --tflite in 8 bits, their ranges found on training images")


def calibration(card: dict, pixels: dict) -> np.ndarray:
    """Training images as the network takes them, float32 (n, h, w, c)."""
    from frenzy import data
    from frenzy.data import augment

    train = data.load(card["dataset"], "train", FLAGS.data_dir, download=FLAGS.download)
    chosen = np.linspace(0, len(train.images) - 1, min(CALIBRATE_ON, len(train.images))).astype(int)
    return np.asarray(augment.normalise(train.images[chosen], pixels["mean"], pixels["std"]), np.float32)


def write(folder: str) -> None:
    """Writes --tflite and prints the accuracy of the SavedModel and of the file on the test images, and where the bytes are.

    A float32 file whose logits are not the SavedModel's is not written.
    """
    with cli.hushed():
        import tensorflow as tf

        from frenzy import data, export, litert
        from frenzy.accounting import account, read
        from frenzy.render import files
        from frenzy.training import evaluate
    with cli.user_errors(
        export.ExportError, data.DataError, litert.LitertError, KeyError, OSError, ValueError, tf.errors.OpError
    ):
        card = export.read_card(folder)
        pixels = card["preprocessing"]
        test = data.load(card["dataset"], "test", FLAGS.data_dir, download=FLAGS.download)
        with cli.hushed():
            content = litert.convert(folder, calibration(card, pixels) if FLAGS.int8 else None)
            loaded = tf.saved_model.load(str(pathlib.Path(folder)))
            serve = loaded.signatures[litert.ENTRY]
            expected = evaluate.logits_of(lambda images: serve(images=images)["logits"], test, pixels["mean"], pixels["std"])
            logits = evaluate.logits_of(litert.Runner(content), test, pixels["mean"], pixels["std"])
        if not FLAGS.int8:
            litert.check(logits, expected)
        files.write(FLAGS.tflite, content)
        found = litert.shrinkage(content, folder, account(read(folder), CONVENTION))
    before, after = (evaluate.accuracies(each, test.labels) for each in (expected, logits))
    same = (logits.argmax(1) == expected.argmax(1)).mean()
    print(
        f"wrote {FLAGS.tflite}: top-1 {after['top1']:.2%}, top-5 {after['top5']:.2%} of {after['n']:,} test images through LiteRT; "
        f"the SavedModel has {before['top1']:.2%} and {before['top5']:.2%}, and {same:.2%} of the answers are the same"
    )
    print(litert.text(found), end="")
