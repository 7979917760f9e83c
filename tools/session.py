"""What the tools that train share: a recipe from flags, its data, its network, its teacher, and the facts of the machine."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pathlib
import platform
import types
import typing
from collections.abc import Callable

from absl import flags

from tools import cli

with cli.hushed():  # the names of augmentations come with TensorFlow
    from frenzy.training.recipe import Recipe, RecipeError

FLAGS = flags.FLAGS
RECIPES = sorted(path.stem for path in (pathlib.Path(__file__).parent / "recipes").glob("*.py") if path.stem != "__init__")
ARCHITECTURE = ("assets.extra", "architecture.json")  # within a SavedModel whose network no builder makes
FLAG_NAMES = {"dataset": "dataset_name"}  # where a flag is not called as the recipe's field
_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


def define_recipe_flags(default: str) -> None:
    """--recipe, and a flag for every field of it."""
    flags.DEFINE_enum("recipe", default, RECIPES, "a module of tools/recipes")
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")
    flags.DEFINE_bool("download", False, "fetch CIFAR where it is not found")
    for name, kind in typing.get_type_hints(Recipe).items():
        plain = next(k for k in typing.get_args(kind) if k is not types.NoneType) if typing.get_args(kind) else kind
        _DEFINE[plain](FLAG_NAMES.get(name, name), None, "in place of the recipe's")


def chosen_recipe() -> Recipe:
    """The recipe that --recipe names, with what the flags change."""
    recipe = importlib.import_module(f"tools.recipes.{FLAGS.recipe}").RECIPE
    values = {field.name: FLAGS[FLAG_NAMES.get(field.name, field.name)].value for field in dataclasses.fields(Recipe)}
    with cli.user_errors(RecipeError):
        return dataclasses.replace(recipe, **{name: value for name, value in values.items() if value is not None})


def command(recipe: Recipe) -> str:
    """What repeats the run: the recipe's name, and a flag for every field that differs from it."""
    named = importlib.import_module(f"tools.recipes.{FLAGS.recipe}").RECIPE
    words = ["python tools/train.py", f"--recipe {FLAGS.recipe}"]
    for field in dataclasses.fields(Recipe):
        if (value := getattr(recipe, field.name)) != getattr(named, field.name):
            words.append(f"--{FLAG_NAMES.get(field.name, field.name)} {value}")
    return " ".join(words)


def device() -> str:
    """The processor, in words."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or platform.machine()


def tree_sha256(folder: str) -> str:
    """The SHA-256 over the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def facts(recipe: Recipe, split) -> dict:
    """What run.json holds beside the recipe: the data's checksum, those of networks that it begins with, machine, versions."""
    import tensorflow as tf
    import tf_keras as keras

    networks = {name: tree_sha256(folder) for name in ("teacher", "init_from") if (folder := getattr(recipe, name))}
    return {
        "recipe_name": FLAGS.recipe,
        "command": command(recipe),
        "data_sha256": split.sha256,
        "networks_sha256": networks,
        "device": device(),
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "tf_keras": keras.__version__},
    }


def load_split(recipe: Recipe, name: str):
    """The 'train' or 'test' split of the recipe's dataset, with the mean and std that its augmentation normalises by.

    Raises UsageError where the data is missing or damaged.
    """
    from frenzy import data
    from frenzy.data.policies import POLICIES

    with cli.user_errors(data.DataError):
        split = data.load(recipe.dataset, name, FLAGS.data_dir, image_size=recipe.image_size, download=FLAGS.download)
    if POLICIES[recipe.augmentation].normalised:
        return split
    return dataclasses.replace(split, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def training_data(recipe: Recipe):
    """The images to train on, and the held-out ones or None."""
    from frenzy.data.split import DataError, hold_out

    train = load_split(recipe, "train")
    if not recipe.hold_out:
        return train, None
    with cli.user_errors(DataError):
        return hold_out(train, recipe.hold_out)


def fresh_network(recipe: Recipe, classes: int, input_shape: tuple[int, int, int]):
    """The recipe's network with fresh weights: what `init_from` carries as its own architecture, else the zoo's."""
    from frenzy import models

    if recipe.init_from and (carried := adapted_network(recipe.init_from)):
        if (theirs := (*carried.input_shape[1:], carried.output_shape[-1])) != (*input_shape, classes):
            raise cli.UsageError(
                f"{recipe.init_from} is an adapted network of {theirs[-1]} classes and images of {theirs[:-1]}; {recipe.dataset} "
                f"has {classes} and {tuple(input_shape)}: name another network by --init_from"
            )
        dropouts = [layer for layer in carried.layers if hasattr(layer, "rate")]
        if recipe.dropout is not None and not dropouts:
            raise cli.UsageError(f"{recipe.init_from} has no dropout; leave --dropout out")
        for layer in dropouts:
            layer.rate = layer.rate if recipe.dropout is None else recipe.dropout
        return carried
    overrides = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    if overrides and recipe.network in models.ZOO and not takes(models.ZOO[recipe.network].builder, "dropout"):
        raise cli.UsageError(f"{recipe.network} has no dropout; leave --dropout out")
    with cli.user_errors(models.UnknownNetworkError, ValueError):
        return models.build(recipe.network, classes, input_shape, **overrides)


def adapted_network(folder: str):
    """The network with fresh weights that no builder makes and that lies beside a SavedModel for this; None where none does."""
    path = pathlib.Path(folder, *ARCHITECTURE)
    if not path.is_file():
        return None
    from frenzy.compress import CompressError, netadapt

    with cli.user_errors(CompressError):
        return netadapt.read_architecture(path)


def carry_architecture(model, folder: str, recipe: Recipe) -> None:
    """Lays the network beside its SavedModel where that which it began with is an adapted one."""
    if recipe.init_from and pathlib.Path(recipe.init_from, *ARCHITECTURE).is_file():
        from frenzy.compress import netadapt

        netadapt.write_architecture(model, pathlib.Path(folder, *ARCHITECTURE))


def build_network(recipe: Recipe, classes: int, input_shape: tuple[int, int, int]):
    """The recipe's network, fresh or with the weights of `init_from` where these fit; and the names of weights left fresh."""
    from frenzy import export, models
    from frenzy.models.arrays import ArraysError

    model = fresh_network(recipe, classes, input_shape)
    if not recipe.init_from:
        return model, []
    with cli.user_errors(export.ExportError, ArraysError):
        return model, models.transfer(model, export.stored_weights(recipe.init_from))


def takes(builder: Callable, name: str) -> bool:
    """Whether a builder has a parameter of this name, under whatever partials."""
    return name in inspect.signature(builder).parameters


def load_teacher(recipe: Recipe, split) -> Callable | None:
    """The teacher's logits as a function of inputs normalised as the split's are; None without a teacher."""
    if not recipe.teacher:
        return None
    import tensorflow as tf

    from frenzy import export

    with cli.user_errors(export.ExportError, OSError, ValueError, KeyError, tf.errors.OpError):
        card = export.read_card(recipe.teacher)
        if len(card["class_names"]) != len(split.class_names):
            raise cli.UsageError(
                f"the teacher {recipe.teacher} knows {len(card['class_names'])} classes and {recipe.dataset} has "
                f"{len(split.class_names)}; name one trained on it"
            )
        with cli.hushed():
            loaded = tf.saved_model.load(recipe.teacher)
            serve = loaded.signatures["serving_default"]
        theirs = card["preprocessing"]
    scale = [ours / other for ours, other in zip(split.std, theirs["std"], strict=True)]
    shift = [(ours - other) / spread for ours, other, spread in zip(split.mean, theirs["mean"], theirs["std"], strict=True)]

    def logits(inputs, _owner=loaded):
        """x = (p - mean) / std, so (p - their mean) / their std = x std / their std + (mean - their mean) / their std.

        The signature's variables live as long as the object that it was loaded with.
        """
        return serve(images=inputs * tf.constant(scale, inputs.dtype) + tf.constant(shift, inputs.dtype))["logits"]

    return logits


@functools.cache
def counts(network: str, classes: int, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """MS in bytes and OC of a network under `micronet`, for TensorBoard beside the curves."""
    from frenzy import export, models

    with cli.user_errors(models.UnknownNetworkError, ValueError):
        fresh = models.build(network, classes, input_shape)
    report = export.account_model(fresh, ["micronet"])["micronet"]
    return {"storage_bytes": float(report.totals.storage_bytes), "operations": float(report.totals.operations)}
