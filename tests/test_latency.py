"""Tables of measured latencies: how networks fall into units, what is interpolated, what is measured once, what is refused."""

import json

import numpy as np
import pytest
import tf_keras as keras

from frenzy import latency, models
from frenzy.compress.netadapt import Candidate, Channels
from frenzy.compress.netadapt.schedule import floor
from frenzy.latency import LatencyError, Runtime, Table


@pytest.fixture(scope="module")
def tiny():
    """A padded strided conv with BN and ReLU, twice the same conv, a residual add, a dense layer behind flatten."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ZeroPadding2D(1, name="space")(inputs)
    x = keras.layers.Conv2D(16, 3, 2, name="stem")(x)
    x = before = keras.layers.ReLU(name="stem_relu")(keras.layers.BatchNormalization(name="stem_bn")(x))
    for name in ("a", "b"):
        x = keras.layers.Conv2D(16, 3, padding="same", name=name)(x)
    x = keras.layers.ReLU(name="add_relu")(keras.layers.Add(name="add")([x, before]))
    x = keras.layers.Dropout(0.5, name="drop")(keras.layers.Flatten(name="flat")(x))
    return Channels(keras.Model(inputs, keras.layers.Dense(10, name="logits")(x), name="tiny"))


@pytest.fixture
def plans(tiny):
    return latency.plan(tiny.layers(), floor(tiny, tiny.norms(), 8).layers, points=3)


@pytest.fixture
def counted(monkeypatch):
    """The widths of every network that is made to be run; running it takes no time."""
    made = []
    monkeypatch.setattr(latency, "compiled", lambda model, runtime: made.append(model.input_shape) or (lambda: None))
    return made


def test_units_are_what_a_runtime_fuses(tiny):
    found = [[entry["config"]["name"] for entry in unit.entries] for unit in latency.units(tiny.layers())]
    assert found == [
        ["space", "stem", "stem_bn", "stem_relu"], ["a"], ["b"], ["add", "add_relu", "flat", "drop"], ["logits"],
    ]  # fmt: skip


def test_widths_are_those_of_the_channels(tiny):
    found = [unit.widths for unit in latency.units(tiny.layers())]
    assert found == [(3, 16), (16, 16), (16, 16), (16,), (4 * 4 * 16, 10)]


def test_the_same_layers_share(tiny, plans):
    stem, a, b, _, _ = latency.units(tiny.layers())
    assert a.kind == b.kind != stem.kind
    assert plans[a.kind].axes == [[8, 16], [8, 16]]
    assert plans[stem.kind].axes == [[3], [8, 16]]
    assert len(plans) == 4


def test_units_of_resnet_20():
    """9 kinds: the stem; convs of three sizes, two of them strided; per size adds; pads, and pool and classifier."""
    kinds = [unit.kind for unit in latency.units(Channels(models.build("resnet_20")).layers())]
    assert sum("Conv2D" in kind for kind in kinds) == 19
    assert sum(kind.startswith("Add() > ReLU()") for kind in kinds) == 9
    with_bn = {kind for kind in kinds if "Conv2D" in kind and "ReLU" in kind}
    assert len(with_bn) == 3 + 2


@pytest.mark.parametrize("name", ["microbotnet_x0.32", pytest.param("irnet_c_cifar", marks=pytest.mark.slow)])
def test_every_unit_can_be_built_alone(name):
    channels = Channels(models.build(name))
    shapes = {layer.name: layer.output for layer in channels.layers()}
    for unit in latency.units(channels.layers()):
        alone = latency.network(unit, unit.widths)
        assert alone.output_shape == shapes[unit.entries[-1]["config"]["name"]]
        assert [each.shape[1:] for each in alone.inputs] == [shape[1:] for shape in unit.inputs]


@pytest.mark.parametrize(
    ("least", "most", "points", "expected"),
    [(8, 64, 5, [8, 16, 32, 48, 64]), (3, 3, 5, [3]), (8, 20, 3, [8, 20]), (8, 384, 5, [8, 96, 192, 288, 384])],
)
def test_axes(least, most, points, expected):
    assert latency.axis(least, most, points) == expected


def filled(path, plans, seconds):
    """A table whose every point is seconds(kind, widths)."""
    table = Table(path, Runtime())
    for kind, _, widths in table.missing(plans):
        timing = dict.fromkeys(("median", "least", "most"), seconds(kind, widths)) | {"runs": 1}
        table.kinds[kind]["points"][",".join(map(str, widths))] = timing
    return table


def test_interpolation_is_linear_along_every_axis(tiny, plans, tmp_path):
    table = filled(tmp_path / "t.json", plans, lambda kind, widths: 1.0 + np.prod(widths))
    _, a, *_ = latency.units(tiny.layers())
    between = latency.Unit(a.kind, (10, 13), a.entries, a.inputs)
    assert table.seconds(between) == pytest.approx(1 + 10 * 13)
    assert table.seconds(a) == 1 + 16 * 16


def test_a_network_is_a_call_and_what_its_units_take_beyond(tiny, plans, tmp_path):
    """Products of widths as seconds, 8 for a call: 8 + (48 - 8) + 2 (256 - 8) + (16 - 8) + (2560 - 8)."""
    table = filled(tmp_path / "t.json", plans, lambda kind, widths: float(np.prod(widths)))
    assert table.of(tiny.layers()) == 8 + (3 * 16 - 8) + 2 * (16 * 16 - 8) + (16 - 8) + (256 * 10 - 8)


def test_narrower_networks_take_less(tiny, plans, tmp_path):
    table = filled(tmp_path / "t.json", plans, lambda kind, widths: float(np.prod(widths)))
    small = Candidate(tiny, tiny.without(tiny.groups[0].classes[:4]))
    assert table.of(small.layers) < table.of(tiny.layers())


def test_measuring_takes_turns():
    """Two rounds of warm-up and three that count; each begins with another. A tick of the clock is 1, and a run takes 10 or 30."""
    now, order = [0], []

    def clock():
        now[0] += 1
        return now[0]

    def run(name, takes):
        order.append(name)
        now[0] += takes

    first, second = latency.measure([lambda: run("a", 10), lambda: run("b", 30)], rounds=3, warmup=2, clock=clock)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba" + "ab"
    assert (first.median, second.median, first.runs) == (11, 31, 3)


def test_a_table_that_was_cut_off_goes_on(plans, tmp_path, counted, monkeypatch):
    class Stop(Exception):
        pass

    def stop(done, of):
        raise Stop("cut off")

    monkeypatch.setattr(latency, "TOGETHER", 2)
    path = tmp_path / "t.json"
    with pytest.raises(Stop, match="cut off"):
        Table(path, Runtime()).build(plans, 2, stop)
    assert len(counted) == 2
    told = []
    Table(path, Runtime()).build(plans, 2, lambda done, of: told.append((done, of)))
    points = 1 + 2 + 4 + 2 + 2  # a call, stem, conv, add, dense
    assert len(counted) == points
    assert told[-1] == (points - 2, points - 2)
    Table(path, Runtime()).build(plans, 2)
    assert len(counted) == points


def test_a_table_of_another_machine_or_runtime(plans, tmp_path, counted):
    path = tmp_path / "t.json"
    Table(path, Runtime()).build(plans, 2)
    with pytest.raises(LatencyError, match=r"was measured with runtime 'litert', and here it is 'tensorflow'; build another"):
        Table(path, Runtime("tensorflow"))
    with pytest.raises(LatencyError, match="was measured with threads 1, and here it is 2"):
        Table(path, Runtime(threads=2))
    stored = json.loads(path.read_text())
    stored["fingerprint"]["processor"] = "abacus"
    path.write_text(json.dumps(stored))
    with pytest.raises(LatencyError, match="was measured with processor 'abacus', and here it is"):
        Table(path, Runtime())
    path.write_text("{")
    with pytest.raises(LatencyError, match=r"is no table of latencies .*; build one with tools/latency\.py"):
        Table(path, Runtime())


def test_what_a_table_does_not_have(tiny, plans, tmp_path):
    table = Table(tmp_path / "t.json", Runtime())
    with pytest.raises(LatencyError, match=r"has no call; build the table for this network with tools/latency\.py"):
        table.of(tiny.layers())
    table.missing(plans)
    with pytest.raises(LatencyError, match=r"is not complete; go on with it by tools/latency\.py"):
        table.of(tiny.layers())
    full = filled(tmp_path / "t.json", plans, lambda kind, widths: 1.0)
    _, a, *_ = latency.units(tiny.layers())
    with pytest.raises(LatencyError, match=r"reaches \[\[8, 16\], \[8, 16\]\] for Conv2D.*, and \(4, 16\) is asked for"):
        full.seconds(latency.Unit(a.kind, (4, 16), a.entries, a.inputs))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"name": "abacus"}, "runtime is 'abacus'; allowed: litert, tensorflow"), ({"batch": 0}, "batch is 0")],
)
def test_runtimes(values, message):
    with pytest.raises(LatencyError, match=message):
        Runtime(**values)


@pytest.mark.parametrize("name", latency.RUNTIMES)
def test_what_is_measured_takes_time(tiny, tmp_path, name):
    """Measured in earnest: a larger network of the same kinds takes longer than a call, by the table and as a whole."""
    runtime = Runtime(name, batch=2)
    table = Table(tmp_path / "t.json", runtime)
    table.build(latency.plan(tiny.layers(), tiny.layers()), 3)
    (whole,) = latency.measure([latency.compiled(tiny.model, runtime)], 3)
    assert 0 < whole.least <= whole.median <= whole.most
    assert table.of(tiny.layers()) > 0
    assert json.loads(table.path.read_text())["fingerprint"]["runtime"] == name
