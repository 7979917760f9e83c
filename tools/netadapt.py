#!/usr/bin/env python3
"""Adapts a trained network to a resource: python tools/netadapt.py --load_folder zoo/alexnet_cifar10 --budget 0.6 --iterations 13.

NetAdapt (arXiv 1804.03230): in every iteration each group of layers is cut until the network's resource has come down by the
iteration's step, tuned for --short_steps, scored on held-out training images, and the best cut is kept. At the end the network is
tuned at length by the recipe: --recipe's, else as it was trained, for an eighth of the epochs at a tenth of the rate.
--resource latency reads the table that tools/latency.py measured. --run_dir gets journal.json, iterations.csv, adaptation.png,
TensorBoard's events, and a SavedModel for every iteration; a run that was stopped or killed goes on with --resume and decides as it
would have. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import dataclasses
import datetime
import hashlib
import itertools
import pathlib
import shlex
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.training.recipe import Recipe
from tools import cli, compress, latency, session

FLAGS = flags.FLAGS
HOLD_OUT = 5000  # training images, where the recipe holds out none
CONVENTION = "micronet"
ROW = "{:>9}  {:>22}  {:>11}  {:>12}  {:>7}  {:>7}  {:>8}"
UNITS = {"latency": "s", "macs": "MACs", "parameters": "parameters", "score": "of the baseline"}


def define_flags() -> None:
    session.define_recipe_flags("alexnet_cifar10")
    latency.define_table_flags()
    flags.DEFINE_string("load_folder", None, "the SavedModel to adapt, one that tools/export.py wrote", required=True)
    flags.DEFINE_string("run_dir", None, "where all that is written goes [runs/<load_folder>_<resource>]")
    flags.DEFINE_string("output", None, "the adapted SavedModel's folder [<run_dir>/SavedModel]")
    flags.DEFINE_enum("resource", "latency", sorted(UNITS), "what is to shrink; score: the challenge's")
    flags.DEFINE_float("budget", 0.6, "share of the resource to come down to")
    flags.DEFINE_integer("iterations", 13, "at most so many")
    flags.DEFINE_float("first", 0.025, "share of the resource that the first step saves")
    flags.DEFINE_float("decay", 0.96, "a step is so many times the one before")
    flags.DEFINE_integer("multiple", 8, "channels are cut to multiples of so many")
    flags.DEFINE_enum(
        "rank", "accuracy", ["accuracy", "ratio"], "the best cut: by accuracy, or by accuracy lost per resource saved"
    )
    flags.DEFINE_integer("short_steps", 500, "of training a proposal", lower_bound=1)
    flags.DEFINE_float("short_lr", 1e-3, "their learning rate", lower_bound=0)
    flags.DEFINE_bool("resume", False, "go on with --run_dir")
    flags.DEFINE_integer("save_every", 100, "steps between checkpoints of the long fine-tune", lower_bound=1)


def score(candidate) -> float:
    """The challenge's score of a cut network, from its SavedModel."""
    from frenzy import export

    found = export.account_model(candidate.build(), [CONVENTION])[CONVENTION].score
    if found is None:
        raise cli.UsageError(f"{FLAGS.load_folder} has no score by {CONVENTION}; choose another --resource")
    return float(found.total)


def resource_of(name: str):
    """resource(candidate) -> a number, and what identifies it: the table's content, say."""
    from frenzy.compress import netadapt

    if name == "latency":
        if not pathlib.Path(FLAGS.table).is_file():
            raise cli.UsageError(f"no table {FLAGS.table}; measure one by tools/latency.py --load_folder {FLAGS.load_folder}")
        table = latency.open_table()
        return lambda candidate: table.of(candidate.layers), hashlib.sha256(table.path.read_bytes()).hexdigest()
    if name == "score":
        return score, CONVENTION
    count = netadapt.multiply_accumulates if name == "macs" else netadapt.parameters
    return lambda candidate: float(count(candidate.layers)), name


def start_network(recipe: Recipe, split):
    """The network of --load_folder with its weights, of the zoo or one that was adapted before."""
    model, fresh = session.build_network(recipe, len(split.class_names), split.images.shape[1:])
    if fresh:
        raise cli.UsageError(f"{FLAGS.load_folder} has no {fresh[0]} of {recipe.network}; adapt before you compress")
    return model


def short_finetune(model, split, recipe: Recipe) -> None:
    """--short_steps at a rate of --short_lr, from the first image on: the same for every proposal, and every time."""
    import tensorflow as tf

    from frenzy.data import pipeline
    from frenzy.training.run import TrainingError
    from frenzy.training.step import inner, make_optimizer, make_step, set_rates

    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    set_rates(optimizer, FLAGS.short_lr, recipe.momentum)
    step = tf.function(make_step(model, optimizer, recipe, split.mean, split.std))
    epochs = (pipeline.batches(split, recipe.batch_size, recipe.seed, epoch) for epoch in itertools.count())
    loss = tf.constant(0.0)
    for number, (images, labels) in zip(range(FLAGS.short_steps), itertools.chain.from_iterable(epochs), strict=False):
        loss, _ = step(images, labels, tf.constant([recipe.seed, number], tf.int32))
    if not bool(tf.math.is_finite(loss)):
        raise TrainingError(f"the loss is {float(loss)} after {FLAGS.short_steps} short steps; lower the short_lr")


class Shown:
    """What people see: progress on stderr, a line a row, the CSV, the picture, TensorBoard, and the SavedModels."""

    def __init__(self, folder: pathlib.Path, journal, recipe: Recipe, split):
        self.folder, self.journal, self.recipe, self.split = folder, journal, recipe, split
        self.begin, self.proposals = time.monotonic(), 0
        print(ROW.format("iteration", "layer", "channels", FLAGS.resource, "left", "as cut", "held out"))
        for row in journal.rows:
            self.line(row)

    def told(self, state: dict) -> None:
        """The proposal under way, and the time left at the speed so far, if every iteration has as many."""
        line = f"iteration {state['iteration']}, {state['group']}"
        if state["proposals"]:
            ahead = (FLAGS.iterations - state["iteration"] + 1) * state["proposals"] - state["proposal"] + 1
            spent = time.monotonic() - self.begin
            left = f", {spent / self.proposals * ahead / 60:.1f} min left at most" if self.proposals else ""
            line += f", proposal {state['proposal']} of {state['proposals']}{left}"
            self.proposals += 1
        print(line, file=sys.stderr, flush=True)

    def line(self, row: dict) -> None:
        name = f"{row.get('group', row['network'])}"
        channels = f"{row['channels']} -> {row['kept']}" if "kept" in row else ""
        share = row["resource"] / (self.journal.rows[0] if self.journal.rows else row)["resource"]
        before = f"{row['before']:.2%}" if "before" in row else ""
        print(
            ROW.format(
                row["iteration"], name, channels, f"{row['resource']:.6g}", f"{share:.1%}", before, f"{row['accuracy']:.2%}"
            )
        )

    def chosen(self, row: dict, model) -> None:
        """A row that is about to enter the journal, and its network."""
        import tensorflow as tf

        from frenzy.compress import netadapt
        from frenzy.render import adaptation, files

        if row["iteration"] and row["network"] != netadapt.FINAL:
            write(model, self.folder / f"iteration_{row['iteration']:02d}", self.split, card_facts(self.recipe, row))
        rows = [*self.journal.rows, row]
        title = f"{model.name}, {self.recipe.dataset}: NetAdapt by {FLAGS.resource}"
        files.write(self.folder / "iterations.csv", adaptation.table(rows))
        files.write(
            self.folder / "adaptation.png", adaptation.picture(rows, f"{FLAGS.resource} ({UNITS[FLAGS.resource]})", title)
        )
        writer = tf.summary.create_file_writer(str(self.folder / "events"))
        with writer.as_default(step=len(rows) - 1):
            for name in ("resource", "before", "accuracy", "loss"):
                if name in row:
                    tf.summary.scalar(name, row[name])
        writer.close()
        self.line(row)


def card_facts(recipe: Recipe, row: dict) -> dict:
    """What a model card says beside the network itself."""
    command = shlex.join(["python", *sys.argv])
    return {
        "dataset": recipe.dataset,
        "training": {"recipe": dataclasses.asdict(recipe), "command": command},
        "adaptation": {"resource": FLAGS.resource, "budget": FLAGS.budget, "load_folder": FLAGS.load_folder, **row},
        "command": command,
    }


def write(model, folder, split, facts: dict) -> None:
    """The SavedModel at 16 bits, and the network itself beside it: no builder makes it."""
    from frenzy import export
    from frenzy.compress import netadapt

    export.round_weights(model, "float16")
    pixels = export.Preprocessing(tuple(split.mean), tuple(split.std))
    export.export(model, folder, pixels, split.class_names, "float16", facts)
    netadapt.write_architecture(model, pathlib.Path(folder, *session.ARCHITECTURE))


def calls(folder: pathlib.Path, recipe: Recipe, resource, split, held, shown: Shown):
    """What NetAdapt is given."""
    import tensorflow as tf

    from frenzy.compress import netadapt
    from frenzy.training import fit, run
    from frenzy.training.callbacks import History
    from frenzy.training.evaluate import accuracies, logits_of
    from tools.progress import Curves, Progress

    def evaluate(model) -> dict:
        logits = logits_of(tf.function(lambda images: model(images, training=False), reduce_retracing=True), held)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(held.labels, logits)
        return {"accuracy": accuracies(logits, held.labels)["top1"], "loss": float(tf.reduce_mean(losses))}

    def finish(model, name: str) -> None:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        history = History(own / "history.csv")
        seen = [Progress(), history, Curves(history, own / "curves.png", f"{recipe.network}, adapted")]
        record = run.Run(own, recipe, session.facts(recipe, split), resume=True)
        fit.fit(model, split, recipe, record, seen, FLAGS.save_every, None, held)

    return netadapt.Calls(
        resource, lambda model, name: short_finetune(model, split, recipe), finish, evaluate, shown.chosen, shown.told
    )


def main() -> None:
    if not pathlib.Path(FLAGS.load_folder, "saved_model.pb").is_file():
        raise cli.UsageError(f"{FLAGS.load_folder} is no SavedModel: it holds no saved_model.pb; name one by --load_folder")
    with cli.hushed():
        import tensorflow as tf
        import tf_keras as keras

        from frenzy import export
        from frenzy import latency as measured
        from frenzy.compress import CompressError, netadapt
        from frenzy.training import evaluate, run

    errors = (CompressError, measured.LatencyError, export.ExportError, run.TrainingError)
    with cli.user_errors(*errors):
        settings = netadapt.Settings(FLAGS.budget, FLAGS.iterations, FLAGS.first, FLAGS.decay, FLAGS.multiple, FLAGS.rank)
        recipe = compress.fine_tuning(export.read_card(FLAGS.load_folder))
        recipe = dataclasses.replace(recipe, hold_out=recipe.hold_out or HOLD_OUT)
        resource, of = resource_of(FLAGS.resource)
        folder = pathlib.Path(FLAGS.run_dir or f"runs/{pathlib.Path(FLAGS.load_folder).name}_{FLAGS.resource}")
        split, held = session.training_data(recipe)
        facts = {
            "recipe": dataclasses.asdict(recipe), "data_sha256": split.sha256, "resource": FLAGS.resource, "measured_by": of,
            "network_sha256": session.tree_sha256(FLAGS.load_folder), "short_steps": FLAGS.short_steps, "short_lr": FLAGS.short_lr,
        }  # fmt: skip
        journal = netadapt.Journal(folder, settings, facts, FLAGS.resume)
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(recipe.seed)
        shown = Shown(folder, journal, recipe, split)
        folder.mkdir(parents=True, exist_ok=True)
        final = netadapt.adapt(start_network(recipe, split), journal, calls(folder, recipe, resource, split, held, shown))
        export.round_weights(final, "float16")
        test = session.load_split(recipe, "test")
        accuracy = evaluate.evaluate(tf.function(lambda images: final(images, training=False), reduce_retracing=True), test)
        scored = {"accuracy": {**accuracy, "split": "test", "date": datetime.date.today().isoformat()}}
        output = FLAGS.output or str(folder / "SavedModel")
        write(final, output, test, {**card_facts(recipe, journal.rows[-1]), **scored})
    print(f"wrote {output}: top-1 {accuracy['top1']:.2%} of {accuracy['n']:,} test images")


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(session)
    flags.adopt_module_key_flags(latency)
    cli.run(main)
