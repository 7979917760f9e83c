"""Shapes for a flat list of nodes, by TensorFlow's own shape functions: the graph is built, never run."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, graph_pb2, types_pb2
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


def _plain_reads(nodes: Sequence[NodeDef]) -> dict[str, NodeDef]:
    """The reads of a variable whose shape and type its own node states -> a placeholder of these, one for all that are alike.

    They and the variables are half of a graph, and nothing is to be inferred of them.
    """
    handles = {n.name: n for n in nodes if n.op == "VarHandleOp" and not n.attr["shape"].shape.unknown_rank}
    alike: dict[tuple[int, bytes], NodeDef] = {}
    found = {}
    for node in nodes:
        handle = handles.get(node.input[0].rsplit(":", 1)[0]) if node.op == "ReadVariableOp" and node.input else None
        if handle is not None and handle.attr["dtype"].type == node.attr["dtype"].type:
            kind = (node.attr["dtype"].type, handle.attr["shape"].SerializeToString())
            if kind not in alike:
                alike[kind] = NodeDef(name=node.name, op="Placeholder")
                alike[kind].attr["dtype"].CopyFrom(handle.attr["dtype"])
                alike[kind].attr["shape"].CopyFrom(handle.attr["shape"])
            found[node.name] = alike[kind]
    return found


@functools.cache
def _takes_function(op: str) -> bool:
    known = op_def_registry.get(op)
    return known is not None and any(attribute.type in ("func", "list(func)") for attribute in known.attr)


def _importable(
    nodes: Sequence[NodeDef], library: graph_pb2.GraphDef, batch: int, foreign: Collection[str], reads: Mapping[str, NodeDef]
) -> graph_pb2.GraphDef:
    """A GraphDef that TensorFlow takes: `foreign` ops that it does not know become placeholders, and so do `reads`.

    Variables that nothing takes then are left out.
    """
    taken = {ref.rsplit(":", 1)[0] for n in nodes if n.name not in reads for ref in n.input}
    used = _outputs_used(nodes) if foreign else {}
    graph = graph_pb2.GraphDef()
    graph.versions.CopyFrom(library.versions)
    if any(map(_takes_function, {n.op for n in nodes})):
        graph.library.CopyFrom(library.library)
    for node in nodes:
        if node.name in foreign:
            graph.node.extend(_stand_in(node, i, batch) for i in range(used.get(node.name, 0) + 1))
            continue
        if node.name in reads:
            if reads[node.name].name == node.name:
                graph.node.append(reads[node.name])
            continue
        if reads and node.op == "VarHandleOp" and node.name not in taken:
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        for key in [key for key in copy.attr if key.startswith("_")]:
            del copy.attr[key]
        for i, ref in enumerate(copy.input):
            name, index = ref.rsplit(":", 1)
            if name in reads:
                copy.input[i] = f"{reads[name].name}:0"
            elif name in foreign and index != "0":
                copy.input[i] = f"{name}/output_{index}:0"
    return graph


def _imported(definition: graph_pb2.GraphDef) -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    return graph


def _output(tensor: tf.Tensor) -> tuple[PartialShape | None, int, bool]:
    """Shape, bits an element, and whether these are floating ones."""
    shape = tensor.shape
    return tuple(shape.as_list()) if shape.rank is not None else None, tensor.dtype.size * 8, tensor.dtype.is_floating


def _plain(attrs: Iterable[tuple[str, attr_value_pb2.AttrValue]]) -> dict[str, Any]:
    """Attributes as plain Python values; functions and tensors as the protos they are."""
    found: dict[str, Any] = {}
    for key, value in attrs:
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


@functools.cache
def _defaults(op: str) -> Mapping[str, Any]:
    """What the attributes of an op are where a file leaves them out."""
    known = op_def_registry.get(op)
    return _plain((a.name, a.default_value) for a in known.attr if a.HasField("default_value")) if known else {}


_HANDLE = ((), 0, False)  # what a variable's own node gives

Constant = Callable[[Ref], np.ndarray | None]
Computed = Callable[[Ref, Mapping[str, np.ndarray]], np.ndarray | None]


def infer(nodes: Sequence[NodeDef], library: graph_pb2.GraphDef, batch: int) -> tuple[Mapping[str, Node], Constant, Computed]:
    """Flat nodes, producers first -> shaped nodes by name, and what Graph calls `constant` and `computed`.

    Raises AccountingError where the shapes contradict each other, as a wrong --input_shape makes them.
    """
    foreign = {n.name for n in nodes if op_def_registry.get(n.op) is None}
    reads = _plain_reads(nodes)
    try:
        graph = _imported(_importable(nodes, library, batch, foreign, reads))
    except (ValueError, tf.errors.OpError) as e:
        reason = " ".join(str(e).split())
        raise AccountingError(f"the graph's shapes do not fit together: {reason[:300]}; check --input_shape") from None
    outputs = {operation.name: tuple(_output(tensor) for tensor in operation.outputs) for operation in graph.get_operations()}
    outputs |= {name: outputs[stand_in.name] for name, stand_in in reads.items()}
    found = {}
    for node in nodes:
        own = outputs.get(node.name, (_HANDLE,))
        inputs = tuple((name, int(index)) for name, index in (ref.rsplit(":", 1) for ref in node.input))
        attrs = {**_defaults(node.op), **_plain(node.attr.items())}
        bits, real = own[0][1:] if own else (0, False)
        found[node.name] = Node(node.name, node.op, inputs, attrs, tuple(shape for shape, _, _ in own), bits, real)

    @functools.cache
    def constant(ref: Ref) -> np.ndarray | None:
        if ref[0] in foreign or ref[0] in reads or ref[0] not in outputs:
            return None
        value = tf.get_static_value(graph.get_operation_by_name(ref[0]).outputs[ref[1]])
        return None if value is None else np.asarray(value)

    return found, constant, computer(lambda: _imported(_importable(nodes, library, batch, foreign, {})), found)
