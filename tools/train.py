#!/usr/bin/env python3
"""Trains a network by a recipe: python tools/train.py --recipe microbotnet_x0.32_cifar10 --data_dir DATA [--resume].

Every field of the recipe has a flag of its name: --epochs 1, --network resnet_20, --dataset_name synthetic10, say. --run_dir
gets run.json (what repeats the run), checkpoints, history.csv, curves.png and TensorBoard's events; a run that was stopped or
killed goes on with --resume and ends with the same weights. tools/export.py makes a SavedModel of it.
--find_lr FILE.png runs a range test instead: the loss over a growing learning rate.
--export_step DIR writes the training step for run_step.py, which runs it where JAX has a device; --import_state OUT takes back
what that made, as a checkpoint in --run_dir.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tools import cli, portable_cli, session

FLAGS = flags.FLAGS


def callbacks(folder: pathlib.Path, title: str, constants: dict) -> list:
    from frenzy.training.callbacks import History, TensorBoard
    from tools.progress import Curves, Progress

    history = History(folder / "history.csv")
    return [Progress(), history, Curves(history, folder / "curves.png", title), TensorBoard(folder / "events", constants)]


def find_rate(recipe, model, split) -> None:
    """The range test: a table's line and a picture."""
    from frenzy.render import files, plots
    from frenzy.training import lr_finder

    rates, losses = lr_finder.range_test(model, split, recipe)
    suggested = lr_finder.steepest(rates, losses)
    files.write(FLAGS.find_lr, plots.rate_curve(rates, losses, suggested, f"{recipe.network}, {recipe.dataset}"))
    print(f"the loss falls fastest at a rate of {suggested:.3g}; {FLAGS.find_lr} shows it")


def main() -> None:
    if FLAGS.import_state:
        portable_cli.import_state()
        return
    recipe = session.chosen_recipe()
    if FLAGS.strategy != "none" and (FLAGS.find_lr or FLAGS.export_step):
        raise cli.UsageError("--find_lr and --export_step run on one replica; leave --strategy out")
    with cli.hushed():
        import tensorflow as tf
        import tf_keras as keras

    from tools import cluster

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(recipe.seed)
    keras.mixed_precision.set_global_policy(recipe.precision)
    with cluster.lost_workers():
        train(recipe, cluster.strategy(FLAGS.strategy))


def train(recipe, strategy) -> None:
    """The run, or what stands for it: a range test, the exported step."""
    from frenzy.training import fit, run
    from tools import cluster

    folder = pathlib.Path(FLAGS.run_dir or f"runs/{FLAGS.recipe}")
    split, held = session.training_data(recipe)
    classes, shape = len(split.class_names), split.images.shape[1:]
    constants = session.counts(recipe.network, classes, shape)
    with cluster.scope(strategy):
        model, fresh = session.build_network(recipe, classes, shape)
        if strategy and strategy.num_replicas_in_sync > 1 and FLAGS.sync_batch_norm:
            model = fit.with_synchronized_norms(model)
    if recipe.init_from:
        print(f"weights of {recipe.init_from}; fresh: {', '.join(fresh) or 'none'}", file=sys.stderr)
    teacher = session.load_teacher(recipe, split)
    with cli.user_errors(run.TrainingError):
        if FLAGS.find_lr:
            find_rate(recipe, model, split)
            return
        if FLAGS.export_step:
            portable_cli.export_step(recipe, model, split, held, teacher)
            return
        chief = cluster.is_chief(strategy)
        record = run.Run(folder, recipe, session.facts(recipe, split), FLAGS.resume, chief)
        cluster.check_alike(
            strategy, f"{session.command(recipe)}, data {split.sha256[:12]}, {record.latest or 'no checkpoint'}"
        )
        listeners = callbacks(folder, f"{recipe.network}, {recipe.dataset}", constants) if chief else []
        try:
            fit.fit(model, split, recipe, record, listeners, FLAGS.save_every, teacher, held, strategy)
        except KeyboardInterrupt:
            print(f"\nstopped; --resume goes on from the last checkpoint in {folder}", file=sys.stderr)
            raise
    print(f"trained; python tools/export.py --run_dir {folder} makes a SavedModel of it")


if __name__ == "__main__":
    session.define_recipe_flags("frenzy_cifar100_short")
    flags.adopt_module_key_flags(session)
    portable_cli.define_flags()
    flags.adopt_module_key_flags(portable_cli)
    flags.DEFINE_string("run_dir", None, "where checkpoints, run.json and history go [runs/<recipe>]")
    flags.DEFINE_bool("resume", False, "go on from the last checkpoint of --run_dir")
    flags.DEFINE_integer("save_every", 100, "steps between checkpoints", lower_bound=1)
    flags.DEFINE_string("find_lr", None, "PNG to draw a learning-rate range test to, in place of training")
    flags.DEFINE_enum("strategy", "none", ["none", "mirrored", "multiworker"], "tf.distribute; multiworker reads TF_CONFIG")
    flags.DEFINE_bool("sync_batch_norm", True, "batch statistics over all replicas")
    cli.run(main)
