"""The steps of tools/search.py: a supernet trained within a budget, what it found written down, and the found network trained."""

import dataclasses
import datetime
import pathlib
import shlex
import sys
from typing import Any

from frenzy.training.recipe import Recipe
from tools import cli, session
from tools.progress import Progress


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of one call share."""

    recipe: Recipe
    split: Any
    held: Any
    convention: str
    plan: Any
    marked: str | None
    fractions: tuple[float, ...]
    resume: bool
    save_every: int

    @property
    def classes(self) -> int:
        return len(self.split.class_names)

    @property
    def facts(self) -> dict:
        return {**session.facts(self.recipe, self.split), "recipe_name": None, "command": shlex.join(["python", *sys.argv])}


class SearchProgress(Progress):
    """Step, loss, cost and lambda on stderr."""

    def __init__(self, controller):
        super().__init__()
        self.controller = controller

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        step = self.epoch * self.params["steps"] + batch + 1
        if step % 20 == 0 and not sys.stderr.isatty() and self.controller.rows:
            row = self.controller.rows[-1]
            print(
                f"  cost {row['cost']:,.4g} for {row['target']:,.4g}, lambda {row['lambda']:.3f}", file=sys.stderr, flush=True
            )


def plain_network(network: str, classes: int, shape: tuple[int, ...], dropout: float | None = None):
    """The zoo's network, padded symmetrically where its builder has the choice."""
    from frenzy import models

    entry = models.ZOO.get(network)
    overrides: dict[str, Any] = (
        {"symmetric_padding": True} if entry and session.takes(entry.builder, "symmetric_padding") else {}
    )
    if dropout is not None:
        overrides["dropout"] = dropout
    with cli.user_errors(models.UnknownNetworkError, ValueError, TypeError):
        return models.build(network, classes, shape, **overrides)


def from_rows(path: str, classes: int, shape: tuple[int, ...]):
    """The network of a rows file, with fresh weights. Raises UsageError."""
    from frenzy.compress import CompressError
    from frenzy.compress.single_path import extract, read_rows

    with cli.user_errors(CompressError):
        rows = read_rows(path)
        return extract(plain_network(rows.network, classes, shape), rows.decisions, name=f"{rows.network}_found")


def fresh_supernet(setting: Setting):
    """The same one every time."""
    import tf_keras as keras

    from frenzy.compress import single_path

    keras.backend.clear_session()
    keras.utils.set_random_seed(setting.recipe.seed)
    keras.mixed_precision.set_global_policy(setting.recipe.precision)
    recipe = setting.recipe
    plain = plain_network(recipe.network, setting.classes, setting.split.images.shape[1:], recipe.dropout)
    return single_path.supernet(plain, setting.marked, setting.fractions)


def search(setting: Setting, objective, budget: float, folder: pathlib.Path):
    """The trained supernet and the decisions, repaired and imposed; the folder gets rows.json and all that explains them."""
    from frenzy.compress import single_path
    from frenzy.training import fit, run
    from frenzy.training.callbacks import History, TensorBoard
    from tools.progress import Curves

    net = fresh_supernet(setting)
    state = single_path.penalize(net, objective, budget)
    record = run.Run(folder, setting.recipe, {**setting.facts, "budget": [objective.name, budget]}, setting.resume)
    controller = single_path.Controller(net, objective, budget, state, setting.plan, folder / "search.csv")
    history = History(folder / "history.csv")
    shown = [
        SearchProgress(controller),
        history,
        Curves(history, folder / "curves.png", f"search, {setting.recipe.network}, {setting.recipe.dataset}"),
        TensorBoard(folder / "events"),
        single_path.Decided(net, controller, folder / "events"),
    ]
    fit.fit(net.model, setting.split, setting.recipe, record, [controller, *shown], setting.save_every, None, setting.held)
    learned = controller.cost()
    decisions, log = single_path.repair(net, objective, budget)
    net.impose(decisions)
    write_found(setting, net, decisions, objective, budget, learned, log, folder)
    return net, decisions


def write_found(setting: Setting, net, decisions, objective, budget: float, learned: float, log: list[str], folder) -> None:
    """rows.json, the table of decisions and what the repair did in report.txt, and cut.png."""
    from frenzy.compress.single_path.decisions import text
    from frenzy.render import files
    from tools import found

    reached = objective.of(net.network, decisions)
    facts = {"budget": {"of": objective.name, "at_most": budget, "reached": reached, "convention": setting.convention}}
    shape = setting.split.images.shape[1:]
    files.write(folder / "rows.json", text(setting.recipe.network, setting.classes, shape, decisions, facts))
    lines = [
        found.table(net.network, decisions, setting.convention),
        f"budget   {objective.text(budget)}",
        f"learned  {objective.text(learned)}, {learned / budget - 1:+.1%} of the budget",
        f"repaired {objective.text(reached)}, {reached / budget - 1:+.1%}, in {len(log)} moves",
        *log,
    ]
    files.write(folder / "report.txt", "\n".join(lines) + "\n")
    try:
        found.draw(net.network, decisions, setting.convention, folder / "cut.png")
    except files.RenderError as e:
        files.write(folder / "cut.dot", found.source(net.network, decisions, setting.convention))
        print(f"{e}; wrote {folder / 'cut.dot'}", file=sys.stderr)


def train_found(setting: Setting, decisions, source, epochs: int, folder: pathlib.Path) -> dict:
    """Trains the small network, from `source`'s weights or from fresh ones, and exports it; returns its card."""
    import tensorflow as tf
    import tf_keras as keras

    from frenzy import export
    from frenzy.compress import single_path
    from frenzy.training import evaluate, fit, run
    from frenzy.training.callbacks import History, TensorBoard
    from tools.progress import Curves

    recipe = dataclasses.replace(setting.recipe, epochs=epochs)
    shape = setting.split.images.shape[1:]

    def small(precision: str, weights_of=None):
        keras.mixed_precision.set_global_policy(precision)
        plain = plain_network(recipe.network, setting.classes, shape, recipe.dropout)
        return single_path.extract(plain, decisions, weights_of, f"{recipe.network}_found")

    keras.utils.set_random_seed(recipe.seed)
    model = small(recipe.precision, source)
    history = History(folder / "history.csv")
    shown = [
        Progress(),
        history,
        Curves(history, folder / "curves.png", f"{recipe.network} cut, {recipe.dataset}"),
        TensorBoard(folder / "events"),
    ]
    start = "the supernet's weights" if source is not None else "fresh weights"
    facts = {
        **setting.facts,
        "rows": {name: [*each.kernel, each.width] for name, each in decisions.items()},
        "began_with": start,
    }
    record = run.Run(folder, recipe, facts, setting.resume)
    done = fit.fit(model, setting.split, recipe, record, shown, setting.save_every, None, setting.held)
    final = small("float32")
    final.set_weights(model.get_weights())
    export.round_weights(final, "float16")
    test = session.load_split(recipe, "test")
    predict = tf.function(lambda images: final(images, training=False), reduce_retracing=True)
    accuracy = evaluate.evaluate(predict, test)
    told = {
        "dataset": recipe.dataset,
        "accuracy": {**accuracy, "split": "test", "date": datetime.date.today().isoformat()},
        "training": {"recipe": dataclasses.asdict(recipe), **facts, "steps": done.steps, "seconds": done.seconds},
        "command": facts["command"],
    }
    pixels = export.Preprocessing(tuple(test.mean), tuple(test.std))
    return export.export(final, folder / "SavedModel", pixels, test.class_names, "float16", told)


def sweep(setting: Setting, objective, shares: list[float], epochs: int, folder: pathlib.Path) -> list:
    """For every share of what the whole network has of the objective: one network found by search and one made narrower alike,
    both trained from fresh weights."""
    from frenzy.compress import single_path
    from tools import found

    points = []
    for share in shares:
        net = fresh_supernet(setting)
        whole = objective.of(net.network, net.whole())
        single_path.check_budget(net, objective, share * whole)
        _, narrow = single_path.uniform(net.network, list(net.layers), objective, share * whole)
        place = folder / f"search_{share:g}"
        _, decisions = search(setting, objective, share * whole, place)
        trained = {"search": train_found(setting, decisions, None, epochs, place / "found")}
        trained["uniform"] = train_found(setting, narrow, None, epochs, folder / f"uniform_{share:g}")
        for kind, card in trained.items():
            counts, accuracy = card["counts"][setting.convention], card["accuracy"]
            points.append(
                found.Point(
                    kind, share, counts["score"], counts["operations"], counts["storage_bytes"], accuracy["top1"], accuracy["n"]
                )
            )
        write_front(setting, points, objective.name, folder)
    return points


def write_front(setting: Setting, points: list, budget: str, folder: pathlib.Path) -> None:
    """front.csv and front.png, as far as the sweep is."""
    from frenzy.render import files
    from tools import found

    files.write(folder / "front.csv", found.front_csv(points))
    files.write(folder / "front.png", found.front_png(points, f"{setting.recipe.network}, {setting.recipe.dataset}", budget))
