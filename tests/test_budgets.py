"""Searches under a budget: what can be reached, the repair, uniform networks, latencies, the controller."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from single_path_case import any_decisions, small

from frenzy.compress import CompressError
from frenzy.compress.single_path import (
    Controller,
    Plan,
    extract,
    latency,
    network_of,
    operations,
    parse_bytes,
    penalize,
    repair,
    score,
    searchable,
    supernet,
    uniform,
)
from frenzy.compress.single_path.controller import read_log, scalars
from frenzy.compress.single_path.uniform import scaled
from frenzy.models import frenzy


@pytest.fixture(autouse=True)
def _seeded():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


# budgets


def test_a_budget_must_be_reachable():
    net = supernet(small())
    objective = operations()
    least, most = (objective.of(net.network, found()) for found in (net.smallest, net.whole))
    with pytest.raises(
        CompressError, match=f"100 operations is below the smallest network that frenzy .*, {least:,.0f} operations"
    ):
        penalize(net, objective, 100)
    with pytest.raises(CompressError, match=f"frenzy as it is needs {most:,.0f} operations; ask for less"):
        penalize(net, objective, most)


@pytest.mark.parametrize(
    ("share", "start"),
    [(0.15, "smallest"), pytest.param(0.5, "whole", marks=pytest.mark.slow), pytest.param(0.8, "any", marks=pytest.mark.slow)],
)
def test_the_repaired_network_is_close_below_its_budget(share, start):
    """29 layers; whatever the search left."""
    net = supernet(frenzy.build(frenzy.unpruned_rows((10, 20, 40), 3), 10, (8, 8, 3), symmetric_padding=True))
    objective = score("micronet")
    budget = share * objective.of(net.network, net.whole())
    random = np.random.default_rng(7)
    net.impose({"whole": net.whole, "smallest": net.smallest, "any": lambda: any_decisions(net, random)}[start]())
    decisions, log = repair(net, objective, budget)
    reached = objective.of(net.network, decisions)
    assert 0.97 * budget <= reached <= budget
    assert log[-1].endswith(objective.text(reached))
    net.impose(decisions)
    assert net.decisions() == decisions
    assert float(objective.measure(net.network, net.choices())) == pytest.approx(reached, rel=1e-12)


def test_uniform_networks_meet_the_budget():
    network = network_of(small())
    names = searchable(network)
    objective = operations("frenzy")
    whole = objective.of(network, scaled(network, names, 1.0))
    multiplier, decisions = uniform(network, names, objective, 0.4 * whole)
    assert objective.of(network, decisions) <= 0.4 * whole
    assert objective.of(network, scaled(network, names, multiplier + 1 / 4096)) > 0.4 * whole
    assert {decision.kernel for name, decision in decisions.items() if "prune" not in name} == {(3, 3)}
    with pytest.raises(CompressError, match="no width of frenzy meets 10 operations; ask for more"):
        uniform(network, names, objective, 10)


def test_latency_is_the_sum_of_the_table():
    def seconds(kind, kernel, inputs, outputs, height, width, stride):
        return 1e-9 * (kernel[0] + 10 * kernel[1] + 100 * inputs + 7 * outputs + height * width + 1000 * stride)

    net = supernet(small())
    objective = latency(seconds)
    decisions = any_decisions(net, np.random.default_rng(2))
    net.impose(decisions)
    with tf.GradientTape() as tape:
        now = objective.measure(net.network, net.choices())
    cut = network_of(extract(net.plain, decisions))
    expected = sum(
        seconds("conv", op.kernel, cut.ops[op.reads[0]].channels, op.channels, *op.shape[:2], op.stride[0])
        for op in cut.ops.values()
        if op.kind == "conv"
    )
    assert objective.of(net.network, decisions) == pytest.approx(expected, rel=1e-12)
    assert float(now) == pytest.approx(expected, rel=1e-12)
    assert float(tape.gradient(now, net.layers["block1_conv1"].threshold_width)[0]) < 0


@pytest.mark.parametrize(
    ("text", "expected"), [("4MB", 4e6), ("4MiB", 4 * 2**20), ("1.5 kB", 1500), ("400", 400), ("2e6", 2e6)]
)
def test_sizes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["4 parsec", "", "MB", "1.2.3MB"])
def test_no_sizes(text):
    with pytest.raises(CompressError, match="is no size; give bytes, or a number with KB, MB, KiB or MiB: 4MB"):
        parse_bytes(text)


# the controller


def test_the_target_falls_evenly_in_its_logarithm():
    plan = Plan(warm_up=0.2, settled=0.6)
    assert [plan.target(share, 1000, 10) for share in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([1000, 1000, 100, 10, 10])
    with pytest.raises(
        CompressError, match=r"warm_up 0\.6 and settled 0\.6: shares of the steps, 0 to 1, the first below the second"
    ):
        Plan(warm_up=0.6)
    with pytest.raises(CompressError, match=r"dropout of indicators is 1\.0; it must be at least 0 and below 1"):
        Plan(dropout=1.0)


def test_lambda_follows_the_cost(tmp_path):
    """None in the warm-up, where indicators are dropped; above 0 while too much is left, below 0 where too much was cut."""
    net, objective = supernet(small()), operations()
    budget = 0.3 * objective.of(net.network, net.whole())
    state = penalize(net, objective, budget)
    controller = Controller(net, objective, budget, state, Plan(), tmp_path / "search.csv")
    controller.set_params({"steps": 10, "epochs": 10})
    controller.on_train_begin()

    def at(step):
        controller.on_epoch_begin(step // 10)
        controller.on_train_batch_begin(step % 10)
        return float(state.multiplier)

    assert at(10) == 0
    assert float(net.layers["stem"].drop_rate) == pytest.approx(0.4)
    first, second = at(40), at(50)
    error = np.log(objective.of(net.network, net.whole()) / Plan().target(0.4, controller.whole, budget))
    assert first == pytest.approx(0.5 * error + 5 * error * 5 / 100, rel=1e-5)
    assert second > first > 0
    assert float(net.layers["stem"].drop_rate) == 0
    (loss,) = net.model.losses
    assert float(loss) == pytest.approx(second * np.log(controller.whole / budget), rel=1e-5)
    net.impose(net.smallest())
    assert at(60) < 0
    controller.on_epoch_end(5)
    rows = read_log(tmp_path / "search.csv")
    assert [row["step"] for row in rows] == [10, 40, 50, 60]
    assert rows[-1]["cost"] == objective.of(net.network, net.smallest())
    names = {name for name, _ in tf.train.list_variables(tf.train.Checkpoint(model=net.model).save(str(tmp_path / "ckpt")))}
    assert {
        "model/search_state/multiplier/.ATTRIBUTES/VARIABLE_VALUE",
        "model/search_state/integral/.ATTRIBUTES/VARIABLE_VALUE",
    } <= names
    found = scalars(net)
    assert found["indicators/stem/rows_0"] == 0
    assert len(found) == 2 * sum(
        each.shape[0] for layer in net.layers.values() for each in layer.thresholds if each is not None
    )
