"""Nodes that do nothing, and constants that the file computes: identities, empty pads, sums with literal zeros, casts."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.grappler import tf_optimizer

from frenzy.accounting.account import find_facts
from frenzy.accounting.graph import Graph, Node, Ref
from frenzy.optimize.network import Network, Step, ref_of, text_of
from frenzy.optimize.norms import allowance

IDENTITIES = frozenset({"Identity", "PreventGradient", "Snapshot", "StopGradient"})
NEUTRAL = {"Add": 0, "AddV2": 0, "BiasAdd": 0, "Sub": 0, "Mul": 1, "RealDiv": 1}


def fold_literals(network: Network) -> Step:
    """What TensorFlow's constant folding finds of the graph's own literals: shapes, axes, pads. Weights are variables to it."""
    definition = network.definition()
    graph = tf.Graph()
    with graph.as_default():
        feeds = _placeholders(network)
        fetches = [text_of(ref) for ref in network.outputs.values()]
        outputs = tf.graph_util.import_graph_def(definition, feeds, fetches, name="")
        for tensor in outputs:
            graph.add_to_collection(tf.compat.v1.GraphKeys.TRAIN_OP, tensor)
        meta = tf.compat.v1.train.export_meta_graph(graph=graph, graph_def=graph.as_graph_def(add_shapes=True))
    folded = {node.name: node for node in _grappler(meta).node}
    changed = 0
    for name, node in network.nodes.items():
        found = folded.get(name)
        if found is not None and found.op == "Const" and node.op != "Const" and _is_literal(found):
            node.op = "Const"
            del node.input[:]
            node.attr.clear()
            for key in ("dtype", "value"):
                node.attr[key].CopyFrom(found.attr[key])
            changed += 1
    network.prune()
    return Step("literals computed", changed)


def _placeholders(network: Network) -> dict[str, tf.Tensor]:
    """Something in the place of every input and every variable that is read."""
    feeds = {f"{i.node}:0": tf.compat.v1.placeholder(i.dtype, i.shape, name=f"feed/{i.node}") for i in network.inputs.values()}
    for node in network.nodes.values():
        if node.op == "ReadVariableOp":
            shape = network.weights[ref_of(node.input[0])[0]].shape
            feeds[f"{node.name}:0"] = tf.compat.v1.placeholder(node.attr["dtype"].type, shape, name=f"feed/{node.name}")
    return feeds


def _grappler(meta: meta_graph_pb2.MetaGraphDef):
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers.append("constfold")
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta, verbose=False)


def _is_literal(node) -> bool:
    """Whole numbers and single ones: a tensor of real numbers may be weights that are computed from codes."""
    tensor = node.attr["value"].tensor
    real = tf.as_dtype(node.attr["dtype"].type).is_floating
    return not real or int(np.prod([dim.size for dim in tensor.tensor_shape.dim])) < 2


def drop_idle(network: Network) -> Step:
    """Takes out what gives just what it gets: identities, casts to the same type, pads of nothing, + 0 and * 1."""
    graph = network.view()
    changed = 0
    for node in graph.nodes.values():
        passed = _passes(network, graph, node)
        if passed is not None and node.name in graph.data_nodes:
            network.rewire((node.name, 0), ref_of(network.nodes[node.name].input[graph_index(node, passed)]))
            changed += 1
    network.prune()
    return Step("nodes that do nothing dropped", changed)


def graph_index(node: Node, ref: Ref) -> int:
    return node.inputs.index(ref)


def _passes(network: Network, graph: Graph, node: Node) -> Ref | None:
    """The input that a node hands on unchanged, if it does."""
    if node.op in IDENTITIES:
        return node.inputs[0]
    if node.op == "Cast" and node.attrs.get("SrcT") == node.attrs.get("DstT"):
        return node.inputs[0]
    if node.op in ("Pad", "MirrorPad", "PadV2"):
        pads = graph.constant(node.inputs[1])
        return node.inputs[0] if pads is not None and not pads.any() else None
    if node.op in NEUTRAL and len(node.inputs) == 2:
        for data, other in (node.inputs, node.inputs[::-1]):
            value = graph.constant(other) if graph.depends(data) and not graph.depends(other) else None
            swapped = data != node.inputs[0] and node.op in ("Sub", "RealDiv")
            same = graph.shape(data) == node.shapes[0]
            if value is not None and (value == NEUTRAL[node.op]).all() and same and not swapped:
                return data
    return None


def fold_casts(network: Network) -> Step:
    """Stores weights in the type that they are read in. Where codes make widths count, all stays as wide as it is."""
    graph = network.view()
    if not allowance(graph, find_facts(graph, network.value)):
        return Step(
            "casts folded", 0, (("", "some weights or maps are narrower than 16 bits, so every width counts: casts stay"),)
        )
    changed = 0
    for name, node in list(network.nodes.items()):
        if node.op != "Cast" or tf.as_dtype(node.attr["DstT"].type) != tf.float32:
            continue
        operand = network.operand((name, 0))
        if operand is None or operand.literal or network.uses(operand.holder) > len(network.readers((name, 0))):
            continue
        if not tf.as_dtype(operand.value.dtype).is_floating:
            continue
        network.rewire((name, 0), network.weight(network.names[operand.holder], operand.value.astype(np.float32)))
        changed += 1
    network.prune()
    return Step("casts folded", changed)


def narrow(network: Network) -> None:
    """Rounds weights of 32 bits to 16 and puts the casts that restore them. The logits change by what rounding changes."""
    for holder, value in list(network.weights.items()):
        if value.dtype != np.float32:
            continue
        rounded = value.astype(np.float16)
        if not np.isfinite(rounded).all():
            continue  # beyond what 16 bits hold
        read = network.readers((holder, 0))[0][0]
        network.rewire((read, 0), network.weight(network.names[holder], rounded, dtype=1))
    network.prune()
