"""NetAdapt's arithmetic, its choices, and runs that are killed anywhere; training is a stand-in that is the same every time."""

import ast
import dataclasses
import itertools
import json
import pathlib
import random
import zlib

import numpy as np
import pytest
import tf_keras as keras

from frenzy.compress import netadapt
from frenzy.compress.netadapt import architecture, schedule
from frenzy.compress.netadapt.schedule import Settings
from frenzy.compress.tensors import CompressError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = Settings(budget=0.5, iterations=3, first=0.15, decay=0.9, multiple=4)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.Conv2D(16, 3, padding="same", name="conv2")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling2D()(x)), name="tiny")


class Stop(Exception):
    """What a kill is in these tests."""


class World:
    """Calls that can be killed at the n-th of them: training moves all weights by noise that the name of the phase seeds."""

    def __init__(self, stop=None):
        self.count, self.stop, self.rows, self.names = 0, stop, [], []

    def tick(self):
        self.count += 1
        if self.count == self.stop:
            raise Stop("killed")

    def resource(self, candidate):
        self.tick()
        return netadapt.parameters(candidate.layers)

    def finetune(self, model, name):
        self.tick()
        self.names.append(name)
        noise = np.random.default_rng(zlib.crc32(name.encode()))
        for half in range(2):
            if half:
                self.tick()
            model.set_weights([w + 0.01 * noise.normal(size=w.shape) for w in model.get_weights()])

    def evaluate(self, model):
        self.tick()
        return {"accuracy": float(np.mean([np.abs(np.sin(100 * w)).mean() for w in model.get_weights()])), "loss": 1.0}

    def chosen(self, row, model):
        self.rows.append(row)
        self.tick()

    def run(self, network, folder, settings=SETTINGS, resume=False, facts=None):
        journal = netadapt.Journal(folder, settings, facts or {"data": "a"}, resume)
        calls = netadapt.Calls(self.resource, self.finetune, self.finetune, self.evaluate, self.chosen)
        return netadapt.adapt(network, journal, calls)


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A run that nothing stopped: its calls, its folder, its network."""
    world, folder = World(), tmp_path_factory.mktemp("run") / "whole"
    return world, folder, world.run(network, folder)


def rows_of(folder):
    return json.loads((folder / "journal.json").read_text())["rows"]


def test_planned_reductions():
    """0.025 (1 - 0.96^n) / (1 - 0.96): 25.7 % after 13 iterations, 32.5 % after 18, never 62.5 %."""
    settings = Settings(budget=0.6, iterations=13)
    for n in (1, 13, 18):
        assert schedule.planned(settings, n) == pytest.approx(0.025 * (1 - 0.96**n) / (1 - 0.96))
    assert round(schedule.planned(settings, 13), 3) == 0.257
    assert round(schedule.planned(settings, 18), 3) == 0.325
    assert schedule.planned(settings, 5000) == pytest.approx(0.625)


def test_targets():
    settings = Settings(budget=0.6, iterations=13)
    assert schedule.target(settings, 200.0, 200.0, 1) == 200 - 0.025 * 200
    assert schedule.target(settings, 200.0, 190.0, 3) == pytest.approx(190 - 0.025 * 0.96**2 * 200)
    assert schedule.target(settings, 200.0, 121.0, 2) == 0.6 * 200


def test_targets_add_up_to_what_is_planned():
    settings, resource = Settings(budget=0.1, iterations=13), 1.0
    for iteration in range(1, 14):
        resource = schedule.target(settings, 1.0, resource, iteration)
    assert 1 - resource == pytest.approx(schedule.planned(settings, 13))


@pytest.mark.parametrize(
    ("count", "expected"), [(24, [16, 8]), (20, [16, 8]), (8, []), (3, []), (9, [8])], ids=["24", "20", "8", "3", "9"]
)
def test_widths_are_multiples(count, expected):
    assert schedule.widths(count, 8) == expected


def test_the_weakest_go():
    group = netadapt.Group("g", ("g",), (5, 6, 7, 8))
    norms = np.array([9, 9, 9, 9, 9, 2.0, 1.0, 3.0, 1.0])
    assert schedule.strongest(group, norms, 2) == [6, 8]
    assert schedule.strongest(group, norms, 3) == [8]  # of equals the first stays


DONE = [
    {"group": "a", "accuracy": 0.80, "resource": 90.0},  # 0.10 lost, 10 saved
    {"group": "b", "accuracy": 0.78, "resource": 80.0},  # 0.12 lost, 20 saved
    {"group": "c", "accuracy": 0.80, "resource": 89.0},
]


@pytest.mark.parametrize(("rank", "expected"), [("accuracy", "c"), ("ratio", "b")])
def test_the_best_proposal(rank, expected):
    settings = Settings(budget=0.5, iterations=1, rank=rank)
    assert schedule.best(DONE, settings, 0.90, 100.0)["group"] == expected


def test_proposals_are_the_widest_that_meet_the_target(network):
    channels = netadapt.Channels(network)
    initial = netadapt.parameters(channels.layers())
    goal = 0.8 * initial
    for plan in schedule.proposals(channels, goal, 4, lambda c: netadapt.parameters(c.layers)):
        assert plan.resource == netadapt.parameters(plan.candidate.layers) <= goal
        wider = schedule.strongest(plan.group, channels.norms(), plan.kept + 4)
        assert netadapt.parameters(channels.layers(channels.without(wider))) > goal


def test_a_run(whole, network):
    """Every row meets its target, the kept network is the best of its proposals, and the last one is at or below the plan."""
    world, folder, final = whole
    rows = rows_of(folder)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 3]
    assert rows[0]["resource"] == sum(int(np.prod(v.shape)) for v in network.trainable_weights)
    for before, row in itertools.pairwise(rows[:4]):
        assert (
            row["resource"]
            <= row["target"]
            == schedule.target(SETTINGS, rows[0]["resource"], before["resource"], row["iteration"])
        )
        assert row["kept"] % 4 == 0
    assert rows[3]["resource"] / rows[0]["resource"] <= 1 - schedule.planned(SETTINGS, 3)
    assert [row["network"] for row in world.rows] == [row["network"] for row in rows]
    assert rows[-1]["network"] == world.names[-1] == netadapt.FINAL
    assert sum(int(np.prod(v.shape)) for v in final.trainable_weights) == rows[-1]["resource"]
    assert sorted(path.name for path in (folder / "networks").iterdir()) == sorted(row["network"] for row in rows)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_is_killed_ends_alike(network, whole, tmp_path, seed):
    """Killed twice at random calls, in whatever phase: the same journal and the same weights."""
    world, folder, final = whole
    at = random.Random(seed)
    for _ in range(2):
        try:
            World(at.randrange(1, max(2, world.count // 2))).run(network, tmp_path / "run", resume=True)
        except Stop:
            continue
    again = World().run(network, tmp_path / "run", resume=True)
    assert rows_of(tmp_path / "run") == rows_of(folder)
    assert again.to_json() == final.to_json()
    for one, other in zip(again.get_weights(), final.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_killed_before_the_journal_is_written(network, whole, tmp_path, monkeypatch):
    write, counts = netadapt.Journal.write, iter(range(100))

    def killed(journal, **changes):
        if next(counts) == 3:
            raise Stop("killed")
        write(journal, **changes)

    monkeypatch.setattr(netadapt.Journal, "write", killed)
    with pytest.raises(Stop, match="killed"):
        World().run(network, tmp_path / "run")
    World().run(network, tmp_path / "run", resume=True)
    assert rows_of(tmp_path / "run") == rows_of(whole[1])


def test_a_finished_run_trains_no_more(network, whole):
    world = World()
    final = world.run(network, whole[1], resume=True)
    assert world.count == 0
    np.testing.assert_array_equal(final.get_weights()[0], whole[2].get_weights()[0])


def test_it_stops_at_the_budget(network, tmp_path):
    settings = dataclasses.replace(SETTINGS, budget=0.8, iterations=9)
    World().run(network, tmp_path / "run", settings)
    rows = rows_of(tmp_path / "run")
    assert rows[-2]["resource"] <= 0.8 * rows[0]["resource"] < rows[-3]["resource"]


@pytest.mark.parametrize(
    ("resource", "settings", "message"),
    [
        (lambda c: 7.0, {}, r"the resource does not shrink: it is 7, and 7 with every group cut to 4 channels"),
        (
            lambda c: netadapt.parameters(c.layers),
            {"budget": 0.01},
            r"budget 0.01 is .*, below the .*; ask for 0\.\d\d or more",
        ),
        (
            lambda c: netadapt.parameters(c.layers),
            {"first": 0.9, "budget": 0.2},
            r"no group of layers alone brings the resource down to .*; plan smaller steps, or a larger budget",
        ),
    ],
    ids=["constant", "out of reach", "too large a step"],
)
def test_what_cannot_be_reached(network, tmp_path, resource, settings, message):
    world = World()
    world.resource = resource
    with pytest.raises(CompressError, match=message):
        world.run(network, tmp_path / "run", dataclasses.replace(SETTINGS, **settings))
    assert world.names == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 1.0}, r"budget is 1.0; a share of the network's resource is above 0 and below 1"),
        ({"first": 0.0}, r"first is 0.0; a share"),
        ({"decay": 1.1}, r"decay is 1.1; it must be above 0 and at most 1"),
        ({"iterations": 0}, r"iterations is 0; it must be 1 or more"),
        ({"rank": "luck"}, r"rank is 'luck'; allowed: accuracy, ratio"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(CompressError, match=message):
        dataclasses.replace(SETTINGS, **values)


def test_another_run_is_not_gone_on_with(network, whole):
    folder = whole[1]
    with pytest.raises(CompressError, match=r"holds a run already; pass --resume"):
        World().run(network, folder)
    with pytest.raises(CompressError, match=r"journal.json: data was a and is b; resume with what the run began with"):
        World().run(network, folder, resume=True, facts={"data": "b"})
    with pytest.raises(CompressError, match=r"journal.json: budget was 0.5 and is 0.4"):
        World().run(network, folder, dataclasses.replace(SETTINGS, budget=0.4), resume=True)


def test_a_damaged_journal(network, tmp_path):
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(CompressError, match=r"journal.json is no run's journal .*; begin again in another --run_dir"):
        World().run(network, tmp_path, resume=True)


def test_damaged_networks(network, tmp_path):
    architecture.save(network, tmp_path / "net")
    (tmp_path / "net" / architecture.WEIGHTS).write_bytes(b"")
    with pytest.raises(CompressError, match="net holds other weights than its network's"):
        architecture.load(tmp_path / "net")
    (tmp_path / "net" / architecture.ARCHITECTURE).write_text("{}")
    with pytest.raises(CompressError, match=r"architecture.json holds no network that can be built"):
        architecture.load(tmp_path / "net")


def test_it_knows_neither_accountant_nor_trainer():
    for path in (ROOT / "frenzy" / "compress" / "netadapt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", ())]
            assert not any(name.startswith(("frenzy.accounting", "frenzy.training", "frenzy.latency")) for name in names), path
