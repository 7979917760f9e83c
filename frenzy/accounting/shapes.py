"""Shapes for a flat list of nodes, by TensorFlow's own shape functions: the graph is built, never run."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from frenzy.accounting.computed import computer
from frenzy.accounting.graph import AccountingError, Node, PartialShape, Ref

DTYPE_BITS = {
    name: bits
    for bits, names in {
        64: ("DT_DOUBLE", "DT_INT64", "DT_UINT64", "DT_COMPLEX64"),
        32: ("DT_FLOAT", "DT_INT32", "DT_UINT32", "DT_QINT32"),
        16: ("DT_HALF", "DT_BFLOAT16", "DT_INT16", "DT_UINT16", "DT_QINT16", "DT_QUINT16"),
        8: ("DT_INT8", "DT_UINT8", "DT_QINT8", "DT_QUINT8", "DT_BOOL", "DT_FLOAT8_E5M2", "DT_FLOAT8_E4M3FN"),
        4: ("DT_INT4", "DT_UINT4"),
        2: ("DT_INT2", "DT_UINT2"),
        128: ("DT_COMPLEX128",),
        0: ("DT_STRING", "DT_RESOURCE", "DT_VARIANT", "DT_INVALID"),
    }.items()
    for name in names
}


def _outputs_used(nodes: Sequence[NodeDef]) -> dict[str, int]:
    used: dict[str, int] = {}
    for node in nodes:
        for ref in node.input:
            name, index = ref.rsplit(":", 1)
            used[name] = max(used.get(name, 0), int(index))
    return used


def _stand_in(node: NodeDef, index: int, batch: int) -> NodeDef:
    """A placeholder in the place of an output of an op that this TensorFlow does not know."""
    stand_in = NodeDef(name=node.name if not index else f"{node.name}/output_{index}", op="Placeholder")
    stand_in.attr["dtype"].type = node.attr["T"].type if "T" in node.attr else types_pb2.DT_FLOAT
    shapes = node.attr["_output_shapes"].list.shape
    if index < len(shapes):
        shape = stand_in.attr["shape"].shape
        shape.CopyFrom(shapes[index])
        if shape.dim and shape.dim[0].size < 0:
            shape.dim[0].size = batch
    else:
        stand_in.attr["shape"].shape.unknown_rank = True
    return stand_in


def _importable(nodes: Sequence[NodeDef], library: graph_pb2.GraphDef, batch: int) -> tuple[graph_pb2.GraphDef, set[str]]:
    """A GraphDef that TensorFlow takes, and the names of the nodes in it that only stand for ops it does not know."""
    foreign = {n.name for n in nodes if op_def_registry.get(n.op) is None}
    used = _outputs_used(nodes)
    graph = graph_pb2.GraphDef()
    graph.versions.CopyFrom(library.versions)
    if any(attr.WhichOneof("value") == "func" for n in nodes for attr in n.attr.values()):
        graph.library.CopyFrom(library.library)
    for node in nodes:
        if node.name in foreign:
            graph.node.extend(_stand_in(node, i, batch) for i in range(used.get(node.name, 0) + 1))
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        for key in [key for key in copy.attr if key.startswith("_")]:
            del copy.attr[key]
        for i, ref in enumerate(copy.input):
            name, index = ref.rsplit(":", 1)
            if name in foreign and index != "0":
                copy.input[i] = f"{name}/output_{index}:0"
    return graph, foreign


def _shape(tensor: tf.Tensor) -> PartialShape | None:
    return tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else None


def _attrs(node: NodeDef) -> dict:
    """The node's attributes as plain Python values; functions and tensors as the protos they are."""
    found = {}
    for key, value in node.attr.items():
        kind = value.WhichOneof("value")
        if kind == "s":
            found[key] = value.s.decode(errors="replace")
        elif kind == "list":
            found[key] = list(value.list.i or value.list.f or value.list.s)
        elif kind == "type":
            found[key] = types_pb2.DataType.Name(value.type)
        elif kind:
            found[key] = getattr(value, kind)
    return found


Constant = Callable[[Ref], np.ndarray | None]
Computed = Callable[[Ref, Mapping[str, np.ndarray]], np.ndarray | None]


def infer(nodes: Sequence[NodeDef], library: graph_pb2.GraphDef, batch: int) -> tuple[Mapping[str, Node], Constant, Computed]:
    """Flat nodes, producers first -> shaped nodes by name, and what Graph calls `constant` and `computed`.

    Raises AccountingError where the shapes contradict each other, as a wrong --input_shape makes them.
    """
    definition, foreign = _importable(nodes, library, batch)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.graph_util.import_graph_def(definition, name="")
    except (ValueError, tf.errors.OpError) as e:
        reason = " ".join(str(e).split())
        raise AccountingError(f"the graph's shapes do not fit together: {reason[:300]}; check --input_shape") from None
    found = {}
    for node in nodes:
        operation = graph.get_operation_by_name(node.name)
        inputs = tuple((name, int(index)) for name, index in (ref.rsplit(":", 1) for ref in node.input))
        shapes = tuple(_shape(tensor) for tensor in operation.outputs)
        bits = operation.outputs[0].dtype.size * 8 if operation.outputs and operation.outputs[0].dtype.size else 0
        real = bool(operation.outputs) and operation.outputs[0].dtype.is_floating
        attrs = _attrs(node if node.name in foreign else operation.node_def)  # the latter has the defaults that files leave out
        found[node.name] = Node(node.name, node.op, inputs, attrs, shapes, bits, real)

    @functools.cache
    def constant(ref: Ref) -> np.ndarray | None:
        if ref[0] in foreign:
            return None
        value = tf.get_static_value(graph.get_operation_by_name(ref[0]).outputs[ref[1]])
        return None if value is None else np.asarray(value)

    return found, constant, computer(graph, found)
