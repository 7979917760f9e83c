#!/usr/bin/env python3
"""Searches a small network within a budget: python tools/search.py --network frenzy_small --target_operations 20e6 [--resume].

The zoo's network trains as a supernet whose convolutions learn their kernels and widths; what it found is written to rows.json,
and trained: --then finetune (from its weights), scratch, or nothing. One target: --target_operations 400e6, --target_storage 4MB,
--target_score 0.14; --convention says how they are counted. --sweep 0.25,0.5,0.75 searches for these shares of the network's
score, or of what --sweep_by names, trains each from fresh weights beside a network made narrower alike, and draws the front;
tools/front.py joins those of several seeds. Every field of a recipe has a flag of its name. --run_dir gets run.json, checkpoints,
search.csv (step, target, cost, lambda), report.txt, cut.png, curves and TensorBoard's events; found/ the trained network and its
SavedModel. A run that was stopped goes on with --resume.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tools import cli, session

FLAGS = flags.FLAGS
TARGETS = ("target_operations", "target_storage", "target_score")


def define_flags() -> None:
    session.define_recipe_flags("synthetic10")
    flags.DEFINE_float("target_operations", None, "at most so many 32-bit operations an image: 400e6", lower_bound=0)
    flags.DEFINE_string("target_storage", None, "at most so many bytes of weights: 4MB, 4MiB")
    flags.DEFINE_float("target_score", None, "at most this score", lower_bound=0)
    flags.DEFINE_enum("convention", "micronet", ["frenzy", "micronet"], "how operations and weights are counted")
    flags.DEFINE_string("marked", None, "regular expression of convolutions to search [all that can be]")
    flags.DEFINE_list("fractions", ["0.1", "0.25", "0.5", "1"], "of a convolution's channels, to choose from")
    flags.DEFINE_float("warm_up", 0.2, "share of the steps without penalty, in which indicators are dropped")
    flags.DEFINE_float("settled", 0.6, "share of the steps after which the target is the budget")
    flags.DEFINE_float("indicator_dropout", 0.4, "rate at which indicators are dropped in the warm-up")
    flags.DEFINE_enum("then", "finetune", ["finetune", "scratch", "nothing"], "what happens to the found network")
    flags.DEFINE_integer("final_epochs", None, "its epochs [as many as the search's]", lower_bound=1)
    flags.DEFINE_list("sweep", None, "shares of the network's score to search for, in place of a target: 0.25,0.5,0.75")
    flags.DEFINE_enum("sweep_by", "score", ["score", "operations", "storage"], "what the shares of --sweep are of")
    flags.DEFINE_string("run_dir", None, "where all that is written goes [runs/search_<network>_<dataset>]")
    flags.DEFINE_bool("resume", False, "go on from the last checkpoint of --run_dir")
    flags.DEFINE_integer("save_every", 100, "steps between checkpoints", lower_bound=1)


def numbers(name: str) -> tuple[float, ...]:
    """A flag of numbers with commas between, each above 0 and at most 1."""
    try:
        found = tuple(map(float, FLAGS[name].value))
    except ValueError:
        found = ()
    if not found or not all(0 < number <= 1 for number in found):
        raise cli.UsageError(f"--{name}={','.join(FLAGS[name].value)}: numbers above 0 and at most 1, with commas between")
    return found


def chosen_target():
    """(objective, budget), or None for a sweep. Raises UsageError."""
    from frenzy.compress import CompressError, single_path

    given = [name for name in TARGETS if FLAGS[name].value is not None]
    if len(given) + bool(FLAGS.sweep) != 1:
        came = ", ".join(f"--{name}" for name in (*given, *(["sweep"] if FLAGS.sweep else []))) or "none"
        raise cli.UsageError(
            f"one target is needed, came {came}; give one of {', '.join(f'--{name}' for name in TARGETS)}, --sweep"
        )
    if not given:
        return None
    with cli.user_errors(CompressError):
        if given[0] == "target_operations":
            return single_path.operations(FLAGS.convention), FLAGS.target_operations
        if given[0] == "target_storage":
            return single_path.storage(FLAGS.convention), single_path.parse_bytes(FLAGS.target_storage)
        return single_path.score(FLAGS.convention), FLAGS.target_score


def chosen_setting(recipe):
    from frenzy.compress import CompressError, single_path
    from tools import searching

    with cli.user_errors(CompressError):
        plan = single_path.Plan(FLAGS.warm_up, FLAGS.settled, FLAGS.indicator_dropout)
    fractions = numbers("fractions")
    if max(fractions) != 1:
        raise cli.UsageError(f"--fractions={','.join(FLAGS.fractions)}: the largest must be 1")
    split, held = session.training_data(recipe)
    return searching.Setting(
        recipe, split, held, FLAGS.convention, plan, FLAGS.marked, fractions, FLAGS.resume, FLAGS.save_every
    )


def main() -> None:
    recipe = session.chosen_recipe()
    if recipe.teacher or recipe.init_from:
        raise cli.UsageError("a search takes no teacher and no --init_from; train the found network with them")
    with cli.hushed():
        import tensorflow as tf

        from frenzy import export
        from frenzy.compress import CompressError, single_path
        from frenzy.training import run
        from tools import searching

    target = chosen_target()
    shares = sorted(numbers("sweep")) if FLAGS.sweep else []
    tf.config.experimental.enable_op_determinism()
    setting = chosen_setting(recipe)
    folder = pathlib.Path(FLAGS.run_dir or f"runs/search_{recipe.network}_{recipe.dataset}")
    epochs = FLAGS.final_epochs or recipe.epochs
    with cli.user_errors(CompressError, run.TrainingError, export.ExportError):
        if target is None:
            searching.sweep(setting, getattr(single_path, FLAGS.sweep_by)(setting.convention), shares, epochs, folder)
            print((folder / "front.csv").read_text() + f"wrote {folder / 'front.csv'} and {folder / 'front.png'}")
            return
        objective, budget = target
        net, decisions = searching.search(setting, objective, budget, folder)
        print((folder / "report.txt").read_text() + f"\nwrote {folder / 'rows.json'}")
        if FLAGS.then != "nothing":
            card = searching.train_found(
                setting, decisions, net.model if FLAGS.then == "finetune" else None, epochs, folder / "found"
            )
            print(f"wrote {folder / 'found' / 'SavedModel'}: top-1 {card['accuracy']['top1']:.2%} of {card['accuracy']['n']:,}")


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(session)
    cli.run(main)
