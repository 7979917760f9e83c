#!/usr/bin/env python3
"""Makes an exported network smaller: python tools/compress.py --method ttq --load_folder zoo/resnet20_cifar10_short [--resume].

Wraps the network for the method, fine-tunes it, takes the wrappers off, exports it and accounts for it before and after. Without
--recipe it is tuned as it was trained, for an eighth of the epochs at a tenth of the rate; every field of a recipe has a flag of
its name, and every option of a method. --run_dir gets run.json, checkpoints, curves and report.txt; a run that was stopped goes on
with --resume. Methods: ttq, one_negative_one, hysteresis, mcdonnell, int8, prune, prune_in_rounds, cluster.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import dataclasses
import datetime
import json
import pathlib
import shlex
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.training.recipe import Recipe, RecipeError
from tools import cli, session

FLAGS = flags.FLAGS
METHODS = ("ttq", "one_negative_one", "hysteresis", "mcdonnell", "int8", "prune", "prune_in_rounds", "cluster")
OPTIONS = {  # of the methods: name -> how the flag is made, what it says
    "threshold": (flags.DEFINE_float, "ttq, one_negative_one: share of the largest weight; hysteresis: latent weight"),
    "relative": (flags.DEFINE_bool, "hysteresis: the threshold is in standard deviations of the tensor"),
    "per_channel": (flags.DEFINE_bool, "hysteresis: a scale per output channel"),
    "bits": (flags.DEFINE_integer, "int8: width of weights, 2 to 8"),
    "sparsity": (flags.DEFINE_float, "prune, prune_in_rounds: share of zeros"),
    "block": (flags.DEFINE_string, "prune: blocks of dense kernels, 4x1 say"),
    "zeros": (flags.DEFINE_string, "prune: m zeros of n neighbours, 2:4 say"),
    "clusters": (flags.DEFINE_integer, "cluster: distinct values a tensor"),
    "preserve_sparsity": (flags.DEFINE_bool, "cluster: zeros stay zeros"),
}
SPARSITY = 0.8  # of prune_in_rounds
CALIBRATED = 512  # images
CONVENTION = "micronet"
SAME = ("method", "network", "dataset", "hold_out")  # in a run that goes on from another


def define_flags() -> None:
    session.define_recipe_flags("resnet20_cifar10_short")
    flags.DEFINE_enum("method", None, METHODS, "how", required=True)
    flags.DEFINE_string("load_folder", None, "the SavedModel to compress, one that tools/export.py wrote", required=True)
    flags.DEFINE_string("run_dir", None, "where checkpoints, run.json and report.txt go [runs/<load_folder>_<method>]")
    flags.DEFINE_string("output", None, "the compressed SavedModel's folder [<run_dir>/SavedModel]")
    flags.DEFINE_string("tensors", None, "regular expression of 'layer/weight' [the method's own rule]")
    flags.DEFINE_integer("map_bits", None, "width of feature maps, 2 to 8; 0: as they are [the method's own]")
    flags.DEFINE_integer("freeze_epochs", 1, "ranges of maps stay for so many last epochs", lower_bound=0)
    flags.DEFINE_bool("resume", False, "go on from the last checkpoint of --run_dir")
    flags.DEFINE_string(
        "continue_from", None, "folder of a finished run of this method: its weights behind the codes are the start"
    )
    flags.DEFINE_integer("save_every", 100, "steps between checkpoints", lower_bound=1)
    for name, (define, words) in OPTIONS.items():
        define(name, None, words)


def fine_tuning(card: dict) -> Recipe:
    """The recipe that the card names, shortened, or --recipe's; with what the flags change, and the card's network as its start."""
    try:
        known = {field.name for field in dataclasses.fields(Recipe)}
        trained = Recipe(**{key: value for key, value in card["training"]["recipe"].items() if key in known})
    except (KeyError, TypeError, AttributeError, RecipeError) as e:
        raise cli.UsageError(
            f"the card of {FLAGS.load_folder} names no recipe ({e}); export the network by tools/export.py"
        ) from None
    chosen = session.chosen_recipe()
    own = {"network": trained.network, "dataset": trained.dataset, "image_size": trained.image_size}
    fixed = {**own, "init_from": FLAGS.load_folder, "precision": "float32"}
    if FLAGS["recipe"].present:
        return dataclasses.replace(chosen, **fixed)
    shorter = dataclasses.replace(trained, epochs=max(1, trained.epochs // 8), peak_lr=trained.peak_lr / 10)
    names = {name: session.FLAG_NAMES.get(name, name) for name in known - set(fixed)}
    given = {name: FLAGS[flag].value for name, flag in names.items() if FLAGS[flag].value is not None}
    return dataclasses.replace(shorter, **fixed, **given)


def wrapped_network(model, steps: int):
    """The network, wrapped as the flags ask, and the tensors that it is about. Raises CompressError."""
    from frenzy import compress

    options = {name: FLAGS[name].value for name in OPTIONS if FLAGS[name].value is not None}
    if FLAGS.method == "prune":
        options["steps"] = steps
    if FLAGS.method == "prune_in_rounds":
        options.pop("sparsity", None)
    rule = None if FLAGS.tensors is None else compress.Rule(FLAGS.tensors)
    tensors = compress.select(model, rule or compress.METHODS[FLAGS.method].rule)
    return compress.compress(model, FLAGS.method, rule, FLAGS.map_bits, **options), tensors


def earlier_run(recipe: Recipe) -> dict:
    """run.json's facts of the run that --continue_from names: its command, and what came before it in turn. Raises UsageError."""
    path = pathlib.Path(FLAGS.continue_from, "run.json")
    try:
        found = json.loads(path.read_text())
        theirs = [found["method"], *(found["recipe"][name] for name in ("network", "dataset", "hold_out"))]
        facts = {key: found[key] for key in ("command", "networks_sha256", "continued") if key in found}
        facts["recipe"] = found["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise cli.UsageError(
            f"--continue_from: {path} cannot be read ({e}); name the --run_dir of an earlier run of tools/compress.py"
        ) from None
    ours = [FLAGS.method, recipe.network, recipe.dataset, recipe.hold_out]
    if theirs != ours:
        words = [", ".join(f"{name} {value}" for name, value in zip(SAME, values, strict=True)) for values in (theirs, ours)]
        raise cli.UsageError(
            f"--continue_from: {FLAGS.continue_from} is of {words[0]}, and this run of {words[1]}; both must agree"
        )
    return facts


def told_once(training: dict) -> dict:
    """Facts of a run for its card: a run that it continues has its epochs, and what else was otherwise there; a packed file is small."""
    if "continued" not in training:
        return training
    before = told_once(training["continued"])
    recipe = {k: v for k, v in before["recipe"].items() if k == "epochs" or v != training["recipe"].get(k)}
    before = {k: v for k, v in before.items() if k != "networks_sha256" or v != training.get(k)}
    return {**training, "continued": {**before, "recipe": recipe}}


def tuner(recipe: Recipe, folder: pathlib.Path, split, held, before: dict | None = None):
    """finetune(model, sparsity or None) -> run.json's facts, and steps and seconds of all its calls: trains the model in place.

    Every sparsity has a folder of its own. `before` are the facts of the run that this one continues.
    """
    from frenzy.compress import FreezeRanges
    from frenzy.training import fit, run
    from frenzy.training.callbacks import History
    from tools.progress import Curves, Progress

    teacher = session.load_teacher(recipe, split)
    command = shlex.join(["python", *sys.argv])
    spent = {"steps": 0, "seconds": 0.0}

    def finetune(model, sparsity=None):
        own = folder if sparsity is None else folder / f"zeros_{sparsity:.3f}"
        own.mkdir(parents=True, exist_ok=True)
        history = History(own / "history.csv")
        shown = [Progress(), history, Curves(history, own / "curves.png", f"{recipe.network}, {FLAGS.method}")]
        facts = {**session.facts(recipe, split), "recipe_name": None, "command": command, "method": FLAGS.method}
        if before is not None:
            facts["continued"] = before
        record = run.Run(own, recipe, facts, FLAGS.resume)
        every = [*shown, FreezeRanges(FLAGS.freeze_epochs)]
        done = fit.fit(model, split, recipe, record, every, FLAGS.save_every, teacher, held)
        spent.update(steps=spent["steps"] + done.steps, seconds=spent["seconds"] + (done.seconds or 0.0))
        return {**facts, **spent}

    return finetune


def report(card: dict, accuracy: dict, tensors, output: str) -> str:
    """What was done to what, accuracy before and after, and every node's cost before and after."""
    from frenzy.accounting import accounts, read
    from frenzy.compress import METHODS
    from frenzy.render import changes, diff

    before, after = (accounts(read(folder), [CONVENTION])[CONVENTION] for folder in (FLAGS.load_folder, output))
    was = f"{card['accuracy']['top1']:.2%}" if card.get("accuracy") else "not known"
    size = sum(tensor.size for tensor in tensors)
    lines = [
        f"method   {FLAGS.method}: {METHODS[FLAGS.method].source}",
        f"tensors  {len(tensors)} with {size:,} weights: {tensors[0].name} ... {tensors[-1].name}",
        f"top-1    before {was}, after {accuracy['top1']:.2%} of {accuracy['n']:,} test images",
    ]
    return "\n".join(lines) + "\n\n" + changes.text(diff.diff(before, after))


def what_was_done(plain, tensors, card: dict) -> dict:
    """The model card's `compression`: the method, its options, its tensors, how many of their weights are zero, its start."""
    from frenzy.compress.tensors import value

    return {
        "method": FLAGS.method,
        "options": {name: FLAGS[name].value for name in OPTIONS if FLAGS[name].value is not None},
        "tensors": len(tensors),
        "weights": sum(tensor.size for tensor in tensors),
        "zeros": sum(int((value(plain, tensor) == 0).sum()) for tensor in tensors),
        "load_folder": FLAGS.load_folder,
        "top1_before": card["accuracy"]["top1"] if card.get("accuracy") else None,
    }


def compressed(recipe: Recipe, folder: pathlib.Path, split, held):
    """The finished network, the tensors that the method took, and the facts of its training."""
    from frenzy import compress
    from frenzy.data.augment import normalise
    from frenzy.training.run import restore

    model, fresh = session.build_network(recipe, len(split.class_names), split.images.shape[1:])
    if fresh:
        raise cli.UsageError(f"{FLAGS.load_folder} has no {fresh[0]} of {recipe.network}; compress maps last, after weights")
    wrapped, tensors = wrapped_network(model, recipe.epochs * (len(split.images) // recipe.batch_size))
    before = None
    if FLAGS.continue_from:
        if FLAGS.method == "prune_in_rounds":
            raise cli.UsageError(
                "--continue_from: prune_in_rounds begins at a network without zeros; leave it out, or --resume"
            )
        before = earlier_run(recipe)
        before["steps"] = restore(wrapped, pathlib.Path(FLAGS.continue_from)).steps
        whole = before["recipe"]["epochs"] * (len(split.images) // before["recipe"]["batch_size"])
        if before["steps"] != whole:
            raise cli.UsageError(
                f"--continue_from: {FLAGS.continue_from} did {before['steps']} of its {whole} steps; finish it by --resume"
            )
    finetune = tuner(recipe, folder, split, held, before)
    if compress.METHODS[FLAGS.method].map_bits if FLAGS.map_bits is None else FLAGS.map_bits:
        compress.calibrate(wrapped, [normalise(split.images[:CALIBRATED], split.mean, split.std)])
    if FLAGS.method == "prune_in_rounds":
        facts = compress.prune_in_rounds(wrapped, SPARSITY if FLAGS.sparsity is None else FLAGS.sparsity, finetune)
    else:
        facts = finetune(wrapped)
    return compress.strip(wrapped), tensors, facts


def main() -> None:
    if not pathlib.Path(FLAGS.load_folder, "saved_model.pb").is_file():
        raise cli.UsageError(f"{FLAGS.load_folder} is no SavedModel: it holds no saved_model.pb; name one by --load_folder")
    with cli.hushed():
        import tensorflow as tf
        import tf_keras as keras

        from frenzy import compress, export
        from frenzy.render import files
        from frenzy.training import evaluate, run

    with cli.user_errors(export.ExportError):
        card = export.read_card(FLAGS.load_folder)
    recipe = fine_tuning(card)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(recipe.seed)
    folder = pathlib.Path(FLAGS.run_dir or f"runs/{pathlib.Path(FLAGS.load_folder).name}_{FLAGS.method}")
    output = FLAGS.output or str(folder / "SavedModel")
    split, held = session.training_data(recipe)
    with cli.user_errors(compress.CompressError, run.TrainingError, export.ExportError):
        plain, tensors, facts = compressed(recipe, folder, split, held)
        export.round_weights(plain, "float16")
        test = session.load_split(recipe, "test")
        predict = tf.function(lambda images: plain(images, training=False), reduce_retracing=True)
        accuracy = evaluate.evaluate(predict, test)
        facts = {
            "dataset": recipe.dataset,
            "accuracy": {**accuracy, "split": "test", "date": datetime.date.today().isoformat()},
            "training": told_once({"recipe": dataclasses.asdict(recipe), **facts}),
            "compression": what_was_done(plain, tensors, card),
            "command": facts["command"],
        }
        pixels = export.Preprocessing(tuple(test.mean), tuple(test.std))
        export.export(plain, output, pixels, test.class_names, "float16", facts)
        session.carry_architecture(plain, output, recipe)
    text = report(card, accuracy, tensors, output)
    files.write(folder / "report.txt", text)
    print(text + f"\nwrote {output} and {folder / 'report.txt'}")


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(session)
    cli.run(main)
