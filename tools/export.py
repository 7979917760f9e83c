#!/usr/bin/env python3
"""Makes a SavedModel of a trained network: python tools/export.py --run_dir runs/frenzy_cifar100_short --output SavedModel/.

Rounds the weights to what is stored, scores exactly these on the whole test set, where the data is at hand, and writes the
result into the model card.

    python tools/export.py --load_folder zoo/resnet20_cifar10_short --packed small.safetensors    # a SavedModel as small as claimed
    python tools/export.py --unpack small.safetensors --output Folder                             # and back, logits bit for bit
    python tools/export.py --load_folder SavedModel/ --tflite net.tflite [--int8]                 # for LiteRT; scored through it
    python tools/export.py --load_folder SavedModel/ --optimize --output Folder                   # BN folded, dead channels removed

--packed beside --run_dir packs what is exported. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import datetime
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.training.recipe import Recipe, RecipeError
from tools import cli, litert_cli, session

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


def pack(folder: str) -> None:
    """Writes --packed, rebuilds the SavedModel from it and compares, and says where its bytes are."""
    if not pathlib.Path(folder, "saved_model.pb").is_file():
        raise cli.UsageError(f"{folder} is no SavedModel: it holds no saved_model.pb; name one by --load_folder")
    with cli.hushed():
        from frenzy import export, packed
    with cli.user_errors(packed.PackedError, export.ExportError), cli.hushed():
        with tempfile.TemporaryDirectory() as scratch:  # so that no file is left which gives other logits
            trial = pathlib.Path(scratch, pathlib.Path(FLAGS.packed).name)
            packed.pack(folder, trial)
            images = packed.verify(trial, folder)
        start = time.perf_counter()
        sizes = packed.pack(folder, FLAGS.packed)
        seconds = time.perf_counter() - start
        maps = len(packed.read_packed(FLAGS.packed)[0]["maps"])
        terms = packed.terms(folder, sizes)
    print(f"wrote {FLAGS.packed} in {seconds:.2f} s: {sizes.tensors} tensors, {sizes.file_bytes:,} bytes")
    for term in terms:
        print(f"{term.bits / 8:>16,.1f}  {term.text}")
    print(
        f"a header may take {packed.allowed_header(sizes, maps):,}; rebuilt, it gives the same logits bit for bit on {images} images"
    )


def unpack() -> None:
    """Writes --output from --unpack."""
    if not FLAGS["output"].present:
        raise cli.UsageError("--unpack needs --output: a folder that is not there yet")
    with cli.hushed():
        from frenzy import export, packed
    with cli.user_errors(packed.PackedError, export.ExportError), cli.hushed():
        card = packed.unpack(FLAGS.unpack, FLAGS.output)
    print(f"wrote {FLAGS.output}: {card['name']}, {len(card['class_names'])} classes, MS {_size(card)} (micronet)")


def _size(card: dict) -> str:
    return f"{card['counts']['micronet']['storage_bytes']:,.0f} bytes"


def optimize() -> None:
    """Writes --output, --load_folder's network with fewer nodes, and says what each pass did and what it left alone."""
    if not FLAGS.load_folder or not FLAGS["output"].present:
        raise cli.UsageError("--optimize needs --load_folder, an exported SavedModel, and --output, another folder")
    if FLAGS.packed:
        raise cli.UsageError("--packed takes a network as it was built, --optimize changes its graph; give one of them")
    dtype = FLAGS.weight_dtype if FLAGS["weight_dtype"].present else "float32"
    with cli.hushed():
        from frenzy import export, optimize
    with cli.user_errors(optimize.OptimizeError, export.ExportError), cli.hushed():
        result = optimize.optimize(FLAGS.load_folder, FLAGS.output, dtype)
    for line in optimize.lines(result):
        print(line)
    print(f"wrote {FLAGS.output}; python tools/count.py --diff {FLAGS.load_folder} {FLAGS.output} shows what went")


def main() -> None:
    asked = [f"--{name}" for name in ("run_dir", "load_folder", "unpack") if FLAGS[name].present]
    if (
        len(asked) > 1
        or (FLAGS.unpack and (FLAGS.packed or FLAGS.tflite))
        or (FLAGS.load_folder and not (FLAGS.packed or FLAGS.optimize or FLAGS.tflite))
    ):
        raise cli.UsageError(
            "give one of --run_dir, --load_folder (with --packed, --tflite or --optimize) and --unpack (with --output)"
        )
    if FLAGS.int8 and not FLAGS.tflite:
        raise cli.UsageError("--int8 goes with --tflite, the file to write; tools/compress.py --method int8 trains with 8 bits")
    if FLAGS.optimize:
        optimize()
    if FLAGS.unpack:
        unpack()
        return
    if not FLAGS.load_folder:
        export_run()
    written = FLAGS.output if FLAGS.optimize else FLAGS.load_folder or FLAGS.output
    if FLAGS.packed:
        pack(written)
    if FLAGS.tflite:
        litert_cli.write(written)


def export_run() -> None:
    """Writes --output from --run_dir."""
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
        model = session.fresh_network(recipe, len(test.class_names), test.images.shape[1:])
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
        session.carry_architecture(model, FLAGS.output, recipe)
    frenzy = card["counts"]["frenzy"]
    print(f"wrote {FLAGS.output}: top-1 {accuracy['top1']:.2%}, top-5 {accuracy['top5']:.2%} of {accuracy['n']:,} test images,")
    print(f"MS {frenzy['storage_bytes'] / 2**20:.3f} MiB, OC {frenzy['operations'] / 1e6:.3f} M operations (frenzy)")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "runs/frenzy_cifar100_short", "a folder that tools/train.py wrote")
    flags.DEFINE_string("output", "SavedModel/", "the SavedModel's folder")
    flags.DEFINE_string("packed", None, "write the network to this file, its tensors packed bit by bit")
    flags.DEFINE_bool(
        "optimize", False, "fold batch norms and remove dead channels; the weights have 32 bits, if not told otherwise"
    )
    flags.DEFINE_string("load_folder", None, "the SavedModel to pack or optimise, in place of a run's")
    litert_cli.define_flags()
    flags.DEFINE_string("unpack", None, "a packed file, to rebuild its SavedModel")
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_bool("download", False, "fetch CIFAR where it is not found")
    flags.DEFINE_enum("weight_dtype", "float16", ["float16", "float32"], "how weights are stored")
    cli.run(main)
