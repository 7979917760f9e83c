"""What is made of reports: sums over modules and ops, two networks side by side, and files for Model Explorer."""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import judge_folder
from drawn_reports import conv, gated, node, report_of
from winner_report import winner_report

from frenzy.accounting import account, read
from frenzy.render import changes, groups, model_explorer
from frenzy.render.diff import AFTER, BEFORE, BEST, NAME, PLACE, aligned, diff, partners, worth
from tools.bodies import MAIN, bodies

SAVED_MODEL = pathlib.Path(__file__).parents[1] / "SavedModel"
REPORTS = {"frenzy": winner_report("frenzy"), "micronet": winner_report("micronet"), "gated": gated(), "empty": report_of()}


def added(many):
    """Sums, field by field."""
    return groups.Sums(*map(sum, zip([0] * len(groups.FIELDS), *map(dataclasses.astuple, many), strict=True)))


def whole(report):
    """A report's totals, as it says them itself."""
    return groups.Sums(*(getattr(report.totals, field) for field in groups.FIELDS))


# sums


@pytest.mark.parametrize("top", [None, 1, 3, 1000])
@pytest.mark.parametrize("by", groups.BY)
@pytest.mark.parametrize("name", REPORTS)
def test_groups_add_up(name, by, top):
    report = REPORTS[name]
    for metric in groups.METRICS:
        view = groups.view(report, by, top=top, metric=metric)
        every = [*view.groups, *([view.others] if view.others else [])]
        assert added(group.sums for group in every) == whole(report)
        assert sorted(row.name for group in every for row in group.rows) == sorted(row.name for row in report.rows)
        assert len(view.groups) + view.left_out == len(groups.grouped(report, by))
        if top and view.others:
            least = min(getattr(group.sums, groups.METRICS[metric]) for group in view.groups)
            hidden = view.others.rows if by == groups.NODE else ()
            assert len(view.groups) == top
            assert all(getattr(row, groups.METRICS[metric]) <= least for row in hidden)


def test_groups_of_frenzy():
    report = dataclasses.replace(
        REPORTS["frenzy"],
        rows=tuple(dataclasses.replace(row, name=f"frenzy/{row.name}/{row.op}") for row in REPORTS["frenzy"].rows),
    )
    blocks = {group.name: group for group in groups.grouped(report, groups.MODULE)}
    assert list(blocks) == ["images", "stem", *(f"block{i}" for i in range(1, 10)), "head", "logits"]
    assert blocks["block1"].sums.parameters == 100 * 50 + 3 * 3 * 50 * 100 + 3 * 3 * 100 * 100
    layers = {group.name: group for group in groups.grouped(report, groups.MODULE, depth=2)}
    assert [row.op for row in layers["block1_conv1"].rows] == ["FusedBatchNormV3", "Relu", "Conv2D"]
    ops = groups.view(REPORTS["frenzy"], groups.OP).groups
    assert [(group.name, len(group.rows), group.sums.operations) for group in ops[:3]] == [
        ("Conv2D", 29, 810_624_000), ("AvgPool", 3, 17_817_600), ("AddV2", 9, 486_400),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "depth", "expected"),
    [
        (("net/a_1/Conv2D", "net/a_2/Conv2D", "net/b/x/Add", "in"), 1, ("a", "a", "b", "in")),
        (("net/a_1/Conv2D", "net/a_2/Conv2D", "net/b/x/Add", "in"), 2, ("a_1", "a_2", "b/x", "in")),
        (("enc/layer_3/q/MatMul", "enc/layer_4/q/MatMul", "dec/layer_3/MatMul"), 1, ("enc", "enc", "dec")),
        (("enc/layer_3/q/MatMul", "enc/layer_4/q/MatMul", "dec/layer_3/MatMul"), 2, ("enc/layer_3", "enc/layer_4", "dec/layer_3")),
        (("Conv2D", "Conv2D_1"), 3, ("Conv2D", "Conv2D_1")),
    ],
)  # fmt: skip
def test_modules(names, depth, expected):
    assert tuple(groups.modules(names, depth).values()) == expected


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("by", groups.BY)
@pytest.mark.parametrize("name", REPORTS)
def test_groups_fit(name, by, width):
    for top in (None, 3):
        text = groups.text(groups.view(REPORTS[name], by, top=top), width)
        assert max(map(len, text.splitlines())) <= width
        assert text.isascii()


def test_top_says_what_it_holds():
    text = groups.text(groups.view(REPORTS["frenzy"], groups.OP, top=1), 140)
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["Conv2D"].split() == "Conv2D 29 4,419,800 8.430 MiB 100.0% 810.624 M 97.8%".split()
    assert lines["7"].split() == "7 others 78 18.304 M 2.2%".split()
    assert "shown: 1 of 8, the dearest by operations, 97.8% of OC, 100.0% of MS, 100.0% of the parameters" in text
    assert "others" not in groups.text(groups.view(REPORTS["frenzy"], groups.OP, top=8), 100)


def test_unknown_and_hidden_nodes_in_sums():
    text = groups.text(groups.view(gated(), groups.OP), 100)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["Exotic"] == ["Exotic", "1", "?"]
    assert "Identity" not in lines
    assert "1 free Identity or NoOp node not shown" in text
    odd = dataclasses.replace(gated().rows[-1], name="a/x/Exotic")
    costly = report_of(node("a/x/Add", "AddV2", macs=1), odd, node("b/y/Add"), node("c/z/Add"))
    assert "1.500 + ?" in groups.text(groups.view(costly, groups.MODULE), 100)


def test_groups_as_data():
    view = groups.view(REPORTS["frenzy"], groups.OP, top=2, metric="adds")
    found = json.loads(groups.json_text(view))
    assert [group["name"] for group in found["groups"]] == ["Conv2D", "AvgPool"]
    assert found["others"]["adds"] == 486_400
    for field in groups.FIELDS:
        assert sum(group[field] for group in [*found["groups"], found["others"]]) == found["totals"][field]
    rows = list(csv.DictReader(io.StringIO(groups.csv_text(view))))
    assert rows == [{key: str(value) for key, value in group.items()} for group in [*found["groups"], found["others"]]]
    assert json.loads(groups.json_text(groups.view(REPORTS["frenzy"], groups.OP)))["others"] is None


# two networks


def renamed(report, rename):
    """The same network under other names."""
    rows = [dataclasses.replace(row, name=rename(row.name), inputs=tuple(map(rename, row.inputs))) for row in report.rows]
    return dataclasses.replace(report, rows=tuple(rows))


def without(report, *names):
    return dataclasses.replace(report, rows=tuple(row for row in report.rows if row.name not in names))


def check_diff(found):
    """No node is lost or stands twice, and the changes add up to the change of the totals."""
    every = [*found.changes, *([found.others] if found.others else [])]
    assert added(change.before for change in every) == whole(found.before)
    assert added(change.after for change in every) == whole(found.after)
    assert added(change.difference for change in every) == found.whole.difference
    if not found.others:
        for side, report in enumerate((found.before, found.after)):
            names = [change.names[side] for change in found.changes if change.names[side] is not None]
            assert sorted(names) == sorted(row.name for row in report.rows)
    return found


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("after", REPORTS)
@pytest.mark.parametrize("before", REPORTS)
def test_changes_add_up(before, after, top):
    found = check_diff(diff(REPORTS[before], REPORTS[after], top))
    for width in (80, 100, 140):
        text = changes.text(found, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.isascii()


@pytest.mark.parametrize(
    ("rename", "match"),
    [(str, NAME), (lambda name: f"other/{name}", NAME), (lambda name: name[::-1].upper(), PLACE)],
    ids=["same names", "another scope", "other names"],
)
def test_the_same_network(rename, match):
    report = renamed(REPORTS["micronet"], lambda name: f"net/{name}")
    found = check_diff(diff(report, renamed(report, rename)))
    assert {change.match for change in found.changes} == {match}
    assert [change.names[0] for change in found.changes] == [row.name for row in report.rows]
    assert all(change.names[1] == rename(change.names[0]) for change in found.changes)
    assert not any(dataclasses.astuple(found.whole.difference))


def test_added_and_removed_nodes_stand_where_they_are():
    before = report_of(conv("a"), conv("b", "a"), node("pool", "AvgPool", macs=5), conv("d", "b"))
    after = report_of(conv("new", macs=1), conv("a"), conv("b", "a"), node("b/relu", macs=7), conv("d", "b"), conv("e", "d"))
    found = check_diff(diff(before, after))
    assert [(change.match, change.names) for change in found.changes] == [
        (AFTER, (None, "new")), (NAME, ("a", "a")), (NAME, ("b", "b")), (AFTER, (None, "b/relu")), (BEFORE, ("pool", None)),
        (NAME, ("d", "d")), (AFTER, (None, "e")),
    ]  # fmt: skip
    signs = [line.split()[0] for line in changes.text(found).splitlines()[5:12]]
    assert signs == ["+", "=", "=", "+", "-", "=", "+"]


def test_names_go_before_places_and_ops_before_names():
    before = report_of(conv("a"), conv("b"), node("c", "AddV2", macs=1))
    after = report_of(conv("b"), conv("x"), node("a", "Mul", macs=1), node("c", "AddV2", macs=1))
    assert partners(before.rows, after.rows) == {"b": ("b", NAME), "c": ("c", NAME), "a": ("x", PLACE)}


def test_places_agree_in_order_and_shapes():
    assert worth(conv("a", "x"), conv("b", "y")) == BEST
    assert worth(conv("a", shape=(1, 8, 8, 4)), conv("b", shape=(1, 8, 8, 5))) == BEST - 1
    assert worth(conv("a", shape=(1, 8, 8, 4)), conv("b", shape=(1, 4, 4, 4))) == 0
    wide, narrow = conv("w", shape=(1, 8, 8, 32)), conv("n", shape=(1, 8, 8, 8))
    again, small = dataclasses.replace(narrow, name="m"), conv("s", shape=(1, 4, 4, 8))
    assert aligned([wide, narrow], [again]) == {"n": "m"}
    assert aligned([narrow], [conv("v", shape=(1, 8, 8, 32)), again]) == {"n": "m"}
    assert aligned([narrow, small], [dataclasses.replace(small, name="t"), again]) in ({"n": "m"}, {"s": "t"})
    assert aligned([], [again]) == aligned([again], []) == {}


def test_the_largest_changes():
    after = without(REPORTS["frenzy"], "block8_conv1", "block1_add")
    found = check_diff(diff(REPORTS["frenzy"], after, top=2, metric="parameters"))
    assert [change.names for change in found.changes] == [("block8_conv1", None), ("block1_add", None)]
    assert [change.difference.parameters for change in found.changes] == [-9 * 400 * 400, 0]
    assert found.left_out == len(REPORTS["frenzy"].rows) - 2
    text = changes.text(found, 80)
    assert f"shown: 2 of {len(REPORTS['frenzy'].rows)} changes, the largest" in text
    assert "  105 others" in text


def test_totals_side_by_side():
    small, large = report_of(conv("a", macs=2000, parameters=300)), report_of(conv("a"), conv("b", macs=9000, parameters=100))
    text = changes.text(diff(small, large))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["parameters"] == ["300", "200", "-100", "1.500"]
    assert lines["multiplies"] == ["2,000", "10,000", "+8,000", "0.200"]
    assert lines["score"] == ["0.4583", "0.4583", "0", "1.000"]
    empty = changes.text(diff(small, report_of()))
    assert [line.split()[1:] for line in empty.splitlines() if line.startswith("adds")] == [["2,000", "0", "-2,000", "-"]]
    assert "before: Exotic 'odd'" in changes.text(diff(gated(), small), 200)
    assert "score  " not in changes.text(diff(dataclasses.replace(small, score=None), large))


def test_changes_as_data():
    found = diff(REPORTS["frenzy"], REPORTS["gated"], top=3)
    data = json.loads(changes.json_text(found))
    listed = [*data["changes"], data["others"]]
    for field in groups.FIELDS:
        for side in (BEFORE, AFTER, "difference"):
            assert sum(change[f"{field}_{side}"] for change in listed) == data["totals"][f"{field}_{side}"]
        assert data["totals"][f"{field}_difference"] == data["totals"][f"{field}_after"] - data["totals"][f"{field}_before"]
    assert data["totals"]["operations_before"] == 828_928_000
    assert data["unknown_after"][0]["op"] == "Exotic"
    rows = list(csv.DictReader(io.StringIO(changes.csv_text(found))))
    assert rows == [{key: "" if value is None else str(value) for key, value in change.items()} for change in listed]


# Model Explorer


def test_node_data_of_the_graph():
    report = gated()
    shown = model_explorer.node_data(report, "operations")
    (graph,) = model_explorer.graph(report)["graphs"]
    assert list(shown) == [graph["id"]] == ["serving_default"]
    results = shown["serving_default"]["results"]
    ids = [each["id"] for each in graph["nodes"]]
    assert ids == [row.name for row in report.rows]
    assert results.keys() == set(ids) - {"odd", "seen/through"}
    assert sum(result["value"] for result in results.values()) == report.totals.operations
    assert results["b2"] == {"value": 75_000}
    stops = shown["serving_default"]["gradient"]
    assert [stop["stop"] for stop in stops] == [0, 0.25, 0.5, 0.75, 1]
    assert json.loads(model_explorer.node_data_text(report, "operations")) == shown


def test_the_graph_for_model_explorer():
    graph = json.loads(model_explorer.graph_text(gated()))
    nodes = {each["id"]: each for each in graph["graphs"][0]["nodes"]}
    assert nodes["a/bn"]["namespace"] == "a"
    assert nodes["joined"]["label"] == "ConcatV2"
    assert [edge["sourceNodeId"] for edge in nodes["joined"]["incomingEdges"]] == ["b1", "b2", "b3/second"]
    attributes = {each["key"]: each["value"] for each in nodes["b2"]["attrs"]}
    assert (attributes["operations"], attributes["kernel"], attributes["status"]) == ("75000", "(3, 3)", "counted")
    assert all(edge["sourceNodeId"] in nodes for each in nodes.values() for edge in each["incomingEdges"])


def test_rows_are_placed_in_one_body_or_in_none():
    rows = [
        node("a/Conv2D", "Conv2D"),
        node("call/a/Conv2D", "Conv2D"),
        node("x", "Relu"),
        node("y", "Relu"),
        node("a/Mul", "Mul"),
    ]
    found = model_explorer.placed(
        rows, {"f": {"1": ("a/Conv2D", "Conv2D"), "2": ("x", "Relu")}, "g": {"1": ("x", "Relu"), "4": ("a/Mul", "AddV2")}}
    )
    assert found == {"f": [(rows[0], "1"), (rows[1], "1")]}
    report = report_of(node("a", "Conv2D", macs=3), node("call/a", "Conv2D", macs=5))
    shown = model_explorer.node_data(report, "multiplies", {"f": {"7": ("a", "Conv2D")}})
    assert shown["f"]["results"] == {"7": {"value": 3 + 5}}


@pytest.mark.parametrize("metric", groups.METRICS)
def test_every_cost_of_frenzy_has_a_place(metric):
    report = account(read(SAVED_MODEL), "micronet")
    found = bodies(SAVED_MODEL, report.entry)
    shown = model_explorer.node_data(report, metric, found)
    (body,) = shown.keys() - {report.entry}
    assert body.startswith("__inference_serving_default_")
    total = getattr(report.totals, groups.METRICS[metric])
    for graph in shown.values():
        assert sum(result["value"] for result in graph["results"].values()) == total
    costs = {row.name: model_explorer.value(row, metric) for row in report.rows}
    for node_id, result in shown[body]["results"].items():
        assert costs[found[body][node_id][0]] == result["value"]


class Twice(tf.Module):
    """A function that is called two times, and a conv outside it."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(np.ones((1, 1, 3, 3), np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 3))])
    def inner(self, x):
        return tf.nn.conv2d(x, self.kernel, 1, "SAME", name="conv")

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 3), name="x")])
    def serve(self, x):
        return {"y": tf.nn.conv2d(self.inner(self.inner(x)), self.kernel, 1, "SAME", name="last")}


def test_bodies_follow_the_calls(tmp_path):
    module = Twice()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve, "inner": module.inner})
    _, reports = judge_folder(tmp_path)
    found = bodies(tmp_path, "serving_default")
    assert MAIN in found
    convs = {(name, node_id) for name, nodes in found.items() for node_id, (_, op) in nodes.items() if op == "Conv2D"}
    assert len(convs) == 2
    shown = model_explorer.node_data(reports["macs"], "multiplies", found)
    values = [shown[name]["results"][node_id]["value"] for name, node_id in convs]
    assert sorted(values) == [4 * 4 * 3 * 3, 2 * 4 * 4 * 3 * 3]
    assert bodies(tmp_path, "serve") == {}
