"""Conditionals that the file decides, those that it does not, and nodes that an optimiser fused."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import judge_folder
from tensorflow.core.framework.node_def_pb2 import NodeDef
from test_saved_model import IMAGE, MACS, Net, conv_row, rewrite, save

from frenzy.accounting.fused import parts


def judged(net, function, folder, **kwargs):
    net.__call__ = tf.function(function, input_signature=[IMAGE], autograph=False)
    return judge_folder(save(folder, net, **kwargs))


PREDICATES = {
    "captured": lambda value: tf.constant(value),
    "behind identities": lambda value: tf.identity(tf.identity(tf.constant(value))),
    "negated": lambda value: tf.logical_not(tf.constant(not value)),
}


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("kind", PREDICATES)
def test_a_constant_conditional_is_the_branch_it_takes(tmp_path, kind, taken):
    """tf.cond on a literal is one branch already; a predicate that comes as an argument of a function is a real If."""
    net = Net()

    @tf.function(autograph=False)
    def choose(which, x):
        return tf.cond(which, lambda: net.conv(x), lambda: tf.pad(x, [(0, 0), (0, 0), (0, 0), (0, 2)]))

    def call(x):
        return choose(PREDICATES[kind](taken), x)

    _, reports = judged(net, call, tmp_path / "m")
    report = reports["frenzy"]
    assert report.unknown == ()
    assert report.totals.parameters == (135 + 5 if taken else 0)
    if taken:
        assert conv_row(report).multiplies == MACS


def test_what_only_the_other_branch_needs_is_not_computed(tmp_path):
    net = Net()

    @tf.function(autograph=False)
    def choose(which, x, y):
        return tf.cond(which, lambda: tf.nn.relu(x), lambda: y)

    _, reports = judged(net, lambda x: choose(tf.constant(True), x, net.conv(x)), tmp_path / "m")
    assert [row.op for row in reports["frenzy"].rows if row.op not in ("Placeholder", "Identity")] == ["Relu"]


@pytest.mark.parametrize(("index", "kept"), [(0, "Relu"), (1, "Tanh"), (7, "Sigmoid"), (-1, "Sigmoid")])
def test_a_constant_case(tmp_path, index, kept):
    branches = [tf.nn.relu, tf.tanh, tf.sigmoid]

    @tf.function(autograph=False)
    def choose(which, x):
        return tf.switch_case(which, [lambda f=f: f(x) for f in branches])

    _, reports = judged(tf.Module(), lambda x: choose(tf.constant(index), x), tmp_path / "m")
    assert [row.op for row in reports["micronet"].rows if row.op not in ("Placeholder", "Identity")] == [kept]


def test_a_conditional_on_the_image_is_an_unknown_node(tmp_path):
    net = Net()
    _, reports = judged(
        net, lambda x: tf.cond(tf.reduce_mean(x) > 0, lambda: net.conv(x), lambda: 2 * net.conv(x), name="gate"), tmp_path / "m"
    )
    (row,) = reports["frenzy"].unknown
    assert row.op in ("If", "StatelessIf")
    assert "no rule for op" in row.formula
    assert "'gate'" in row.formula


def test_a_conditional_on_a_variable_is_an_unknown_node(tmp_path):
    net = Net()
    net.switch = tf.Variable(True)
    _, reports = judged(net, lambda x: tf.cond(net.switch, lambda: net.conv(x), lambda: 2 * net.conv(x)), tmp_path / "m")
    assert len(reports["frenzy"].unknown) == 1


def fuse(meta, first, steps):
    """Conv2D and what follows it written as one _FusedConv2D, as a graph optimiser leaves it."""
    for function in meta.graph_def.library.function:
        nodes = {node.op: node for node in function.node_def}
        if first not in nodes or steps[-1] not in nodes:
            continue
        fused, last = nodes[first], nodes[steps[-1]]
        for step in steps:
            fused.input.extend(nodes[step].input[1:])
        fused.op = "_Fused" + first
        fused.attr["num_args"].i = len(fused.input) - 2
        fused.attr["fused_ops"].list.s.extend(step.encode() for step in steps)
        old = last.name
        fused_name, fused.name = fused.name, old
        for step in steps:
            function.node_def.remove(nodes[step])
        for node in function.node_def:
            for i, ref in enumerate(node.input):
                if ref.startswith(old + ":"):
                    node.input[i] = f"{old}:output:0"
        for key, ref in function.ret.items():
            if ref.startswith(old + ":"):
                function.ret[key] = f"{old}:output:0"
        assert fused_name != old


def test_fused_nodes_are_counted_as_what_they_stand_for(tmp_path):
    net = Net()

    def call(x):
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, net.kernel, 1, "SAME"), net.bias))

    _, plain = judged(net, call, tmp_path / "plain")
    net.__call__ = tf.function(call, input_signature=[IMAGE])
    folder = save(tmp_path / "fused", net)
    rewrite(folder, lambda meta: fuse(meta, "Conv2D", ["BiasAdd", "Relu"]))
    _, fused = judge_folder(folder)
    for convention in plain:
        assert fused[convention].totals == plain[convention].totals
    assert [row.op for row in fused["frenzy"].rows][1:4] == ["Conv2D", "BiasAdd", "Relu"]


def node_of(op, **attrs):
    node = NodeDef(name="n", op=op)
    for key, value in attrs.items():
        if isinstance(value, list):
            node.attr[key].list.s.extend(v.encode() for v in value)
        elif isinstance(value, int):
            node.attr[key].i = value
        else:
            node.attr[key].s = value.encode()
    return node


@pytest.mark.parametrize(
    ("node", "inputs", "ops"),
    [
        (node_of("_FusedMatMul", fused_ops=["BiasAdd", "Tanh"]), 3, ["MatMul", "BiasAdd", "Tanh"]),
        (node_of("_FusedConv2D", fused_ops=["FusedBatchNorm", "Relu"]), 6, ["Conv2D", "FusedBatchNorm", "Relu"]),
        (node_of("_FusedDepthwiseConv2dNative", fused_ops=["BiasAdd"]), 3, ["DepthwiseConv2dNative", "BiasAdd"]),
        (
            node_of("_FusedBatchNormEx", activation_mode="Relu", num_side_inputs=1), 6,
            ["FusedBatchNormV3", "Add", "Relu"],
        ),
        (node_of("_FusedBatchNormEx", activation_mode="Identity", num_side_inputs=0), 5, ["FusedBatchNormV3"]),
        (node_of("_FusedConv2D", fused_ops=["GeluExact"]), 2, ["_FusedConv2D"]),  # stays whole: an unknown op
        (node_of("Conv2D"), 2, ["Conv2D"]),
    ],
)  # fmt: skip
def test_parts(node, inputs, ops):
    found = list(parts(node, [(f"input_{i}", 0) for i in range(inputs)]))
    assert [part.op for part, _ in found] == ops
    assert found[-1][0].name == "n"
    assert [ref for _, own in found for ref in own[1:]] == [(f"input_{i}", 0) for i in range(1, inputs)]


def test_two_inputs_of_which_each_leaves_its_own_batch_open(tmp_path):
    net = Net()
    net.dense = tf.Variable(np.ones((7, 5), np.float32))
    specs = [tf.TensorSpec((None, 8, 8, 3), tf.float32, "image"), tf.TensorSpec((None, 7), tf.float32, "facts")]
    net.__call__ = tf.function(lambda image, facts: net.conv(image) + (facts @ net.dense)[:, None, None], input_signature=specs)
    graph, reports = judge_folder(save(tmp_path / "m", net))
    assert len(graph.inputs) == 2
    assert reports["micronet"].unknown == ()
    assert reports["micronet"].totals.parameters == 135 + 5 + 7 * 5
    assert sum(row.multiplies for row in reports["micronet"].rows) == MACS + 7 * 5


def test_a_frozen_graph_inside(tmp_path):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    net = Net()
    net.kernel = tf.Variable(np.ones((3, 3, 3, 5), np.float16))
    conv = tf.function(lambda x: tf.nn.bias_add(tf.nn.conv2d(x, tf.cast(net.kernel, tf.float32), 1, "SAME"), net.bias))
    frozen = convert_variables_to_constants_v2(conv.get_concrete_function(IMAGE))
    holder = tf.Module()
    holder.__call__ = tf.function(lambda x: frozen(x)[0], input_signature=[IMAGE])
    graph, reports = judge_folder(save(tmp_path / "m", holder))
    row = conv_row(reports["micronet"])
    assert not graph.variables
    assert (row.weight_bits, row.parameters, row.nonzero) == (16, 135, 135)
    assert reports["micronet"].totals.parameters == 135 + 5
