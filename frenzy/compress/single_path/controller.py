"""A budget instead of a hand-tuned lambda: the penalty lambda log(cost / budget), and who sets lambda.

Loss = cross-entropy + lambda log(cost / budget). After a warm-up without penalty the target falls from the whole network's cost to
the budget, evenly in its logarithm; lambda is proportional and integral to log(cost / target), so it becomes negative where too
much was cut, and what is off comes on again.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping

import tensorflow as tf
import tf_keras as keras

from frenzy.compress.single_path.objective import Objective
from frenzy.compress.single_path.supernet import Supernet
from frenzy.compress.tensors import CompressError

COLUMNS = ("step", "target", "cost", "lambda")


@dataclasses.dataclass(frozen=True)
class Plan:
    """When a search does what, as shares of its steps, and how strongly.

    Indicators are dropped at the rate `dropout` up to `warm_up`; the target reaches the budget at `settled`. lambda = proportional
    e + integral (sum of e over the search's steps, as a share of them), e = log(cost / target), within +-most.
    """

    warm_up: float = 0.2
    settled: float = 0.6
    dropout: float = 0.4
    proportional: float = 0.5
    integral: float = 5.0
    most: float = 5.0
    every: int = 5  # steps between two settings

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < self.settled <= 1:
            raise CompressError(
                f"warm_up {self.warm_up} and settled {self.settled}: shares of the steps, 0 to 1, the first below the second"
            )
        if not 0 <= self.dropout < 1:
            raise CompressError(f"dropout of indicators is {self.dropout}; it must be at least 0 and below 1")

    def target(self, share: float, whole: float, budget: float) -> float:
        """The target after a share of the steps."""
        way = min(max((share - self.warm_up) / (self.settled - self.warm_up), 0.0), 1.0)
        return whole * (budget / whole) ** way


class State(tf.Module):
    """What a resumed search goes on with: lambda, and the sum behind its integral part."""

    def __init__(self) -> None:
        super().__init__(name="search_state")
        self.multiplier = tf.Variable(0.0, trainable=False, name="lambda")
        self.integral = tf.Variable(0.0, trainable=False, name="lambda_integral")


def penalize(net: Supernet, objective: Objective, budget: float) -> State:
    """Adds lambda log(cost / budget) to the supernet's losses; its checkpoints then hold the state. Raises CompressError.

    The budget must lie within what the supernet can reach.
    """
    check_budget(net, objective, budget)
    state = State()
    net.model.search_state = state

    def penalty():
        now = tf.cast(objective.measure(net.network, net.choices()), tf.float64)
        return state.multiplier * tf.cast(tf.math.log(now / budget), tf.float32)

    net.model.add_loss(penalty)
    return state


def check_budget(net: Supernet, objective: Objective, budget: float) -> None:
    """Raises CompressError for a budget below the smallest reachable network, or one that the whole network meets."""
    least, most = objective.of(net.network, net.smallest()), objective.of(net.network, net.whole())
    if budget < least:
        raise CompressError(
            f"{objective.text(budget)} is below the smallest network that {net.plain.name} can be cut down to, "
            f"{objective.text(least)}; ask for that or more, mark more layers, or allow smaller fractions"
        )
    if budget >= most:
        raise CompressError(f"{objective.text(budget)}: {net.plain.name} as it is needs {objective.text(most)}; ask for less")


class Controller(keras.callbacks.Callback):
    """Sets lambda and the indicators' dropout before every few steps, and writes down how: a CSV file of COLUMNS.

    What it does at a step follows from the step, the weights and the state alone, so a resumed search goes on as if it had
    not stopped.
    """

    def __init__(
        self, net: Supernet, objective: Objective, budget: float, state: State, plan: Plan, log: pathlib.Path | None = None
    ):
        super().__init__()
        self.net, self.objective, self.budget, self.state, self.plan, self.log = net, objective, budget, state, plan, log
        self.whole = objective.of(net.network, net.whole())
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self._measured = tf.function(lambda: tf.cast(objective.measure(net.network, net.choices()), tf.float64))

    def cost(self) -> float:
        """Of what the indicators choose now."""
        return float(self._measured())

    def on_train_begin(self, logs=None):
        self.rows = read_log(self.log) if self.log else []
        self.cost()  # traced here, before steps are timed

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        per_epoch, steps = self.params["steps"], self.params["steps"] * self.params["epochs"]
        step = self.epoch * per_epoch + batch
        if step % self.plan.every == 0:
            self.set_for(step, steps)

    def set_for(self, step: int, steps: int) -> None:
        """lambda and dropout for `step` of `steps` and those after it."""
        share, plan = step / steps, self.plan
        now, target = self.cost(), plan.target(share, self.whole, self.budget)
        if share < plan.warm_up:
            self.net.set_dropout(plan.dropout)
        else:
            self.net.set_dropout(0.0)
            error = float(tf.math.log(now / target))
            summed = float(self.state.integral) + plan.integral * error * plan.every / steps
            self.state.integral.assign(min(max(summed, -plan.most), plan.most))
            value = plan.proportional * error + float(self.state.integral)
            self.state.multiplier.assign(min(max(value, -plan.most), plan.most))
        self.rows = [row for row in self.rows if row["step"] < step]
        self.rows.append({"step": step, "target": target, "cost": now, "lambda": float(self.state.multiplier)})

    def on_epoch_end(self, epoch, logs=None):
        if self.log:
            write_log(self.log, self.rows)


def read_log(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a controller's file; no file, no rows."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows]


def write_log(path: pathlib.Path, rows: list[dict[str, float]]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def scalars(net: Supernet) -> dict[str, float]:
    """Every threshold and every indicator by its name, for TensorBoard."""
    found: dict[str, float] = {}
    for name, layer in net.layers.items():
        for field, threshold, indicators in zip(
            ("rows", "columns", "width"), layer.thresholds, layer.indicators(), strict=True
        ):
            if threshold is not None:
                for at, (t, on) in enumerate(zip(threshold.numpy(), indicators.numpy(), strict=True)):
                    found[f"thresholds/{name}/{field}_{at}"], found[f"indicators/{name}/{field}_{at}"] = float(t), float(on)
    return found


class Decided(keras.callbacks.Callback):
    """TensorBoard's events of every threshold and indicator, and of cost and lambda, epoch by epoch."""

    def __init__(self, net: Supernet, controller: Controller, folder: pathlib.Path):
        super().__init__()
        self.net, self.controller, self.folder = net, controller, folder

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        values: Mapping[str, float] = {
            "cost": self.controller.cost(),
            "lambda": float(self.controller.state.multiplier),
            **scalars(self.net),
        }
        with self.writer.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()
