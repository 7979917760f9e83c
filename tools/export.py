#!/usr/bin/env python3
"""Makes a SavedModel of a trained network: python tools/export.py --run_dir runs/frenzy_cifar100_short --output SavedModel/.

Rounds the weights to what is stored, scores exactly these on the whole test set, where the data is at hand, and writes the
result into the model card. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import dataclasses
import datetime
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.training.recipe import Recipe, RecipeError
from tools import cli, session

FLAGS = flags.FLAGS


def read_run(folder: pathlib.Path) -> tuple[dict, Recipe]:
    """run.json of a run's folder."""
    path = folder / "run.json"
    if not path.is_file():
        raise cli.UsageError(f"{folder} holds no run (no run.json); train one with tools/train.py --run_dir {folder}")
    try:
        record = json.loads(path.read_text())
        return record, Recipe(**record["recipe"])
    except (ValueError, KeyError, TypeError, RecipeError) as e:
        raise cli.UsageError(f"{path} is not a run's record ({e}); train again with tools/train.py") from None


def main() -> None:
    folder = pathlib.Path(FLAGS.run_dir)
    record, recipe = read_run(folder)
    with cli.hushed():
        import tensorflow as tf
        import tf_keras as keras

    from frenzy import export
    from frenzy.training import evaluate, run

    keras.mixed_precision.set_global_policy("float32")
    test = session.load_split(recipe, "test")
    with cli.user_errors(run.TrainingError, export.ExportError):
        model, _ = session.build_network(
            dataclasses.replace(recipe, init_from=None), len(test.class_names), test.images.shape[1:]
        )
        progress = run.restore(model, folder)
        if FLAGS.weight_dtype == "float16":
            export.round_weights(model, FLAGS.weight_dtype)
        print(f"scoring {len(test.images):,} test images", file=sys.stderr)
        predict = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
        accuracy = evaluate.evaluate(predict, test)
        facts = {
            "dataset": recipe.dataset,
            "accuracy": {**accuracy, "split": "test", "date": datetime.date.today().isoformat()},
            "training": {**record, "steps": progress.steps, "seconds": progress.seconds},
            "command": f"{record.get('command') or 'python tools/train.py --recipe ' + str(record.get('recipe_name'))}"
            " && python tools/export.py --run_dir <run_dir>",
        }
        pixels = export.Preprocessing(tuple(test.mean), tuple(test.std))
        dtype = FLAGS.weight_dtype if FLAGS.weight_dtype == "float16" else None
        card = export.export(model, FLAGS.output, pixels, test.class_names, dtype, facts)
    frenzy = card["counts"]["frenzy"]
    print(f"wrote {FLAGS.output}: top-1 {accuracy['top1']:.2%}, top-5 {accuracy['top5']:.2%} of {accuracy['n']:,} test images,")
    print(f"MS {frenzy['storage_bytes'] / 2**20:.3f} MiB, OC {frenzy['operations'] / 1e6:.3f} M operations (frenzy)")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "runs/frenzy_cifar100_short", "a folder that tools/train.py wrote")
    flags.DEFINE_string("output", "SavedModel/", "the SavedModel's folder")
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_bool("download", False, "fetch CIFAR where it is not found")
    flags.DEFINE_enum("weight_dtype", "float16", ["float16", "float32"], "how weights are stored")
    cli.run(main)
