#!/usr/bin/env python3
"""Trains a network by a recipe: python tools/train.py --recipe frenzy_cifar100_short --data_dir DATA [--resume].

Every number of the recipe has a flag of its name: --epochs 1, say. run.json and the checkpoints go to --run_dir; a run that
was stopped or killed goes on with --resume and ends with the same weights. tools/export.py makes a SavedModel of it.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import dataclasses
import importlib
import pathlib
import platform
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.training.recipe import Recipe, RecipeError
from tools import cli

FLAGS = flags.FLAGS
RECIPES = sorted(path.stem for path in (pathlib.Path(__file__).parent / "recipes").glob("*.py") if path.stem != "__init__")
NUMBERS = [field.name for field in dataclasses.fields(Recipe) if field.type in (int, float)]


def chosen_recipe() -> Recipe:
    """The recipe that --recipe names, with what the flags change."""
    recipe = importlib.import_module(f"tools.recipes.{FLAGS.recipe}").RECIPE
    changes = {name: FLAGS[name].value for name in NUMBERS if FLAGS[name].value is not None}
    with cli.user_errors(RecipeError):
        return dataclasses.replace(recipe, **changes)


def device() -> str:
    """The processor, in words."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or platform.machine()


def main() -> None:
    recipe = chosen_recipe()
    with cli.hushed():
        import tensorflow as tf
        import tf_keras as keras

    from frenzy import models
    from frenzy.data import cifar
    from frenzy.training import fit
    from tools.progress import Progress

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(recipe.seed)
    keras.mixed_precision.set_global_policy(recipe.precision)
    folder = pathlib.Path(FLAGS.run_dir or f"runs/{FLAGS.recipe}")
    with cli.user_errors(cifar.DataError, fit.TrainingError):
        split = cifar.load(recipe.dataset, "train", FLAGS.data_dir)
        facts = {
            "recipe_name": FLAGS.recipe,
            "data_sha256": split.sha256,
            "device": device(),
            "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "tf_keras": keras.__version__},
        }
        run = fit.Run(folder, recipe, facts, FLAGS.resume)
        model = models.build(recipe.network, cifar.LAYOUTS[recipe.dataset].classes)
        try:
            fit.fit(model, split, recipe, run, [Progress()], FLAGS.save_every)
        except KeyboardInterrupt:
            print(f"\nstopped; --resume goes on from the last checkpoint in {folder}", file=sys.stderr)
            raise
    print(f"trained; python tools/export.py --run_dir {folder} makes a SavedModel of it")


if __name__ == "__main__":
    flags.DEFINE_enum("recipe", RECIPES[0], RECIPES, "a module of tools/recipes")
    flags.DEFINE_string("run_dir", None, "where checkpoints and run.json go [runs/<recipe>]")
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA]")
    flags.DEFINE_bool("resume", False, "go on from the last checkpoint of --run_dir")
    flags.DEFINE_integer("save_every", 100, "steps between checkpoints", lower_bound=1)
    for name in NUMBERS:
        define = flags.DEFINE_integer if Recipe.__annotations__[name] is int else flags.DEFINE_float
        define(name, None, "in place of the recipe's")
    cli.run(main)
