"""A signature of a SavedModel as a flat graph that can be rewritten: read, looked at as the accountant does, run, changed.

Nodes keep the accountant's names; weights stay variables, so that it proves of the rewritten graph what it proves of the file.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, tensor_shape_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from frenzy.accounting.checkpoint import Values
from frenzy.accounting.graph import PASSES_ON, VARIABLES, Graph, Ref, Variable
from frenzy.accounting.inline import Inliner, needed
from frenzy.accounting.saved_model import INTERNAL_SIGNATURES, parse, read_graph
from frenzy.accounting.shapes import infer

SEE_THROUGH = PASSES_ON | {"Cast"}
READS_HANDLES = frozenset({"Identity", "ReadVariableOp"})


class OptimizeError(Exception):
    """A SavedModel that cannot be optimised, or whose optimised form does not compute what it computes; one line."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What one pass did: how many nodes it changed, and (node, reason) of those that it left alone."""

    name: str
    changed: int = 0
    left: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a signature; `shape` as the file gives it, with None where it is open, `settled` with one image."""

    node: str
    shape: tuple[int | None, ...]
    settled: tuple[int, ...]
    dtype: int


@dataclasses.dataclass(frozen=True)
class Operand:
    """A constant that a node reads: its value as it is stored, and the node that holds it.

    literal: in the graph itself. dtype: the type that it is read in (DT_...), `casts` away from its own.
    """

    holder: str
    value: np.ndarray
    literal: bool
    dtype: int
    casts: int


def ref_of(text: str) -> Ref:
    """ "name:1" -> ("name", 1)."""
    name, _, index = text.rpartition(":")
    return name, int(index)


def text_of(ref: Ref) -> str:
    return f"{ref[0]}:{ref[1]}"


@dataclasses.dataclass
class Network:
    """Flat nodes by name, each input written 'node:index', and the values of the variables by the node that holds them.

    `names`: what a holder's variable is called in the file. `library`: the functions that nodes call.
    """

    folder: str
    entry: str
    nodes: dict[str, NodeDef]
    inputs: dict[str, Input]
    outputs: dict[str, Ref]
    weights: dict[str, np.ndarray]
    names: dict[str, str]
    batch: int
    library: graph_pb2.GraphDef

    def __post_init__(self) -> None:
        self._index()

    def _index(self) -> None:
        self._readers: dict[str, dict[tuple[str, int], None]] = {}
        for node in self.nodes.values():
            for index, text in enumerate(node.input):
                self._readers.setdefault(text, {})[(node.name, index)] = None

    # looking

    def view(self) -> Graph:
        """The accountant's graph of what is here now."""
        flat = []
        settled = {each.node: each.settled for each in self.inputs.values()}
        for node in self._flat():
            copy = NodeDef()
            copy.CopyFrom(node)
            if node.name in settled:
                copy.attr["shape"].shape.CopyFrom(_shape_proto(settled[node.name]))
            flat.append(copy)
        found, constant, computed = infer(flat, self.library, self.batch)
        variables = {
            name: Variable(self.names[name], self.weights[name].shape, self.weights[name].dtype.itemsize * 8, name)
            for name in self.weights
            if name in found
        }
        inputs, outputs = tuple(settled), tuple(self.outputs[key] for key in sorted(self.outputs))
        return Graph(self.folder, self.entry, found, inputs, outputs, self.batch, variables, constant, computed)

    def _flat(self) -> list[NodeDef]:
        """The nodes that the outputs need and the inputs, producers first."""
        flat = needed(self.nodes.values(), [name for name, _ in self.outputs.values()])
        names = {node.name for node in flat}
        return [self.nodes[i.node] for i in self.inputs.values() if i.node not in names] + flat

    def value(self, key: str | None) -> np.ndarray | None:
        """The value of a variable, for the accountant."""
        return self.weights.get(key or "")

    def constant(self, graph: Graph, ref: Ref) -> np.ndarray | None:
        """The value of a tensor that no image changes; None where an op on the way is not one of plain arithmetic."""
        operand = self.operand(ref)
        if operand is not None and operand.casts <= 1:
            dtype = tf.as_dtype(operand.dtype).as_numpy_dtype
            if np.can_cast(operand.value.dtype, dtype, "safe"):
                return operand.value.astype(dtype)
        roots = [root for root in graph.roots(ref) if root in graph.variables]
        return graph.computed(ref, {root: self.weights[root] for root in roots}) if not graph.depends(ref) else None

    def operand(self, ref: Ref) -> Operand | None:
        """The stored constant behind a tensor, seen through casts; None for anything that is computed."""
        dtypes = []
        while (node := self.nodes[ref[0]]).op in SEE_THROUGH and node.input:
            if node.op == "Cast":
                dtypes.append(node.attr["DstT"].type)
            ref = ref_of(node.input[ref[1] if node.op == "IdentityN" else 0])
        if node.name not in self.weights and node.op != "Const":
            return None
        literal = node.op == "Const"
        value = tf.make_ndarray(node.attr["value"].tensor) if literal else self.weights[node.name]
        return Operand(node.name, value, literal, [*dtypes, _enum(value)][0], len(dtypes))

    def readers(self, ref: Ref) -> list[tuple[str, int]]:
        """(node, which of its inputs) for every use of a tensor; ('', 0) for an output of the network."""
        return [*self._readers.get(text_of(ref), ()), *(("", 0) for output in self.outputs.values() if output == ref)]

    def uses(self, holder: str) -> int:
        """How many nodes read a stored constant, casts aside."""
        count, waiting = 0, [(holder, 0)]
        while waiting:
            for name, _ in self.readers(waiting.pop()):
                if name and self.nodes[name].op in SEE_THROUGH:
                    waiting.append((name, 0))
                else:
                    count += 1
        return count

    def run(self, refs: Sequence[Ref], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The values of tensors for inputs by key."""
        graph, places = tf.Graph(), {}
        with graph.as_default():
            values = {f"{self.inputs[key].node}:0": tf.compat.v1.placeholder(self.inputs[key].dtype) for key in feed}
            places = {values[f"{self.inputs[key].node}:0"]: array for key, array in feed.items()}
            for node in self.nodes.values():
                if node.op == "ReadVariableOp":
                    values[f"{node.name}:0"] = place = tf.compat.v1.placeholder(node.attr["dtype"].type)
                    places[place] = self.weights[ref_of(node.input[0])[0]]
            tensors = tf.graph_util.import_graph_def(self.definition(), values, [text_of(ref) for ref in refs], name="")
            with tf.compat.v1.Session(graph=graph) as session:
                return session.run(tensors, places)

    def definition(self) -> graph_pb2.GraphDef:
        """The nodes that are not inputs, variables or reads of these: what these are fed to."""
        graph = graph_pb2.GraphDef(versions=self.library.versions)
        inputs = {each.node for each in self.inputs.values()}
        graph.node.extend(n for n in self._flat() if n.name not in inputs and n.op not in VARIABLES | {"ReadVariableOp"})
        if any(map(_called, graph.node)):
            graph.library.CopyFrom(self.library.library)
        return graph

    # changing

    def unique(self, name: str) -> str:
        number, candidate = 0, name
        while candidate in self.nodes:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def add(self, name: str, op: str, inputs: Sequence[Ref], **attrs) -> Ref:
        """A new node under a name like this one; attributes are types (int), truth values, texts or tensors (arrays)."""
        node = NodeDef(name=self.unique(name), op=op)
        node.input.extend(map(text_of, inputs))
        for key, value in attrs.items():
            if isinstance(value, np.ndarray):
                node.attr[key].tensor.CopyFrom(tf.make_tensor_proto(value))
            elif isinstance(value, bool):
                node.attr[key].b = value
            elif isinstance(value, str):
                node.attr[key].s = value.encode()
            elif isinstance(value, tuple):
                node.attr[key].shape.CopyFrom(_shape_proto(value))
            else:
                node.attr[key].type = value
        self.nodes[node.name] = node
        for index, text in enumerate(node.input):
            self._readers.setdefault(text, {})[(node.name, index)] = None
        return node.name, 0

    def connect(self, name: str, index: int, ref: Ref) -> None:
        """Makes an input of a node read this tensor."""
        self._readers[self.nodes[name].input[index]].pop((name, index))
        self.nodes[name].input[index] = text_of(ref)
        self._readers.setdefault(text_of(ref), {})[(name, index)] = None

    def reconnect(self, name: str, refs: Sequence[Ref]) -> None:
        """Gives a node other inputs, as many as these."""
        for index, text in enumerate(self.nodes[name].input):
            self._readers[text].pop((name, index))
        del self.nodes[name].input[:]
        self.nodes[name].input.extend(map(text_of, refs))
        for index, ref in enumerate(refs):
            self._readers.setdefault(text_of(ref), {})[(name, index)] = None

    def literal(self, name: str, value: np.ndarray, dtype: int | None = None) -> Ref:
        """A new constant of the graph itself, read in its own type or another."""
        return self._read_as(name, self.add(name, "Const", (), dtype=_enum(value), value=value), _enum(value), dtype)

    def weight(self, name: str, value: np.ndarray, dtype: int | None = None) -> Ref:
        """A new variable of this value, read in its own type or another."""
        own = _enum(value)
        holder, _ = self.add(name, "VarHandleOp", (), dtype=own, shape=value.shape, shared_name=name)
        self.weights[holder], self.names[holder] = value, name
        return self._read_as(name, self.add(f"{name}/read", "ReadVariableOp", [(holder, 0)], dtype=own), own, dtype)

    def _read_as(self, name: str, ref: Ref, own: int, dtype: int | None) -> Ref:
        return ref if dtype in (None, own) else self.add(f"{name}/cast", "Cast", [ref], SrcT=own, DstT=dtype)

    def exchange(self, node: str, index: int, value: np.ndarray) -> None:
        """Gives a node another stored constant in the place of the one that it reads: a literal or a variable, as that is."""
        old = self.operand(ref_of(self.nodes[node].input[index]))
        assert old is not None
        name = self.names.get(old.holder, old.holder)
        self.connect(node, index, self.literal(name, value, old.dtype) if old.literal else self.weight(name, value, old.dtype))

    def rewire(self, old: Ref, new: Ref, but: Iterable[str] = ()) -> None:
        """Whatever reads `old`, but for these nodes, reads `new`."""
        for name, index in self.readers(old):
            if name and name not in but:
                self.connect(name, index, new)
        self.outputs = {key: new if ref == old else ref for key, ref in self.outputs.items()}

    def prune(self) -> None:
        """Drops what no output needs."""
        kept = {node.name for node in self._flat()}
        self.nodes = {name: node for name, node in self.nodes.items() if name in kept}
        self.weights = {name: value for name, value in self.weights.items() if name in kept}
        self._index()


def _enum(value: np.ndarray) -> int:
    return tf.as_dtype(value.dtype).as_datatype_enum


def _shape_proto(shape: Sequence[int | None]) -> tensor_shape_pb2.TensorShapeProto:
    proto = tensor_shape_pb2.TensorShapeProto()
    for dim in shape:
        proto.dim.add(size=-1 if dim is None else dim)
    return proto


def signatures(folder: str | os.PathLike) -> tuple[str, ...]:
    """The names of the signatures that take and give something. Raises AccountingError where there is no SavedModel."""
    found = parse(folder).signature_def.items()
    return tuple(sorted(n for n, s in found if n not in INTERNAL_SIGNATURES and s.inputs and s.outputs))


def _placeholder(name: str, shape: Sequence[int | None], dtype: int) -> NodeDef:
    node = NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = dtype
    node.attr["shape"].shape.CopyFrom(_shape_proto(shape))
    return node


def read_network(folder: str | os.PathLike, entry: str) -> Network:
    """A signature's graph, inlined, with the values of its variables. Raises OptimizeError and AccountingError."""
    meta = parse(folder)
    signature = meta.signature_def[entry]
    open_shape = next((i for i in signature.inputs.values() if any(d.size < 0 for d in i.tensor_shape.dim[1:])), None)
    if open_shape is not None or any(i.tensor_shape.unknown_rank for i in signature.inputs.values()):
        raise OptimizeError(
            f"{folder}: signature '{entry}' takes images of any size, and borders depend on it; export it for one known size"
        )
    graph = read_graph(folder, entry)
    inliner = Inliner({f.signature.name: f for f in meta.graph_def.library.function})
    inputs, given = {}, {}
    for key in sorted(signature.inputs):
        info = signature.inputs[key]
        shape = tuple(None if d.size < 0 else d.size for d in info.tensor_shape.dim)
        name = inliner.add(_placeholder(key, shape, info.dtype), ())
        settled = tuple(dim or 1 for dim in graph.shape((name, 0)) or ())
        inputs[key], given[info.name.split(":")[0]] = Input(name, shape, settled, info.dtype), (name, 0)
    keys = sorted(signature.outputs)
    refs = inliner.graph(meta.graph_def, [signature.outputs[key].name for key in keys], given)
    nodes = {node.name: node for node in inliner.nodes if node.name in graph.nodes}
    for node in nodes.values():
        for attr in [key for key in node.attr if key.startswith("_")]:
            del node.attr[attr]
    weights, library = _weights(folder, graph, nodes), _own_functions(nodes.values(), meta.graph_def)
    return Network(
        str(folder), entry, nodes, inputs, dict(zip(keys, refs, strict=True)), weights,
        {holder: graph.variables[holder].name for holder in weights}, graph.batch, library,
    )  # fmt: skip


def _called(node: NodeDef) -> list:
    """The names of functions in a node's attributes, to be read and changed."""
    found = [attr.func for attr in node.attr.values() if attr.HasField("func")]
    return found + [each for attr in node.attr.values() for each in attr.list.func]


def _own_functions(nodes: Iterable[NodeDef], graph: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """The functions that nodes call, and those that these call, under names that nothing else in this process has."""
    known = {function.signature.name: function for function in graph.library.function}
    names: dict[str, str] = {}
    own = graph_pb2.GraphDef(versions=graph.versions)
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        for called in _called(node):
            if called.name in known and called.name not in names:
                names[called.name] = f"{called.name}_{next(_number)}"
                copy = own.library.function.add()
                copy.CopyFrom(known[called.name])
                copy.signature.name = names[called.name]
                waiting.extend(copy.node_def)
            called.name = names.get(called.name, called.name)
    return own


_number = itertools.count()


def _weights(folder: str | os.PathLike, graph: Graph, nodes: Mapping[str, NodeDef]) -> dict[str, np.ndarray]:
    """The variables' values by holder. Raises OptimizeError for one without data, and for other resources than variables."""
    values, found = Values(str(folder)), {}
    for holder, variable in graph.variables.items():
        value = values(variable.key)
        if value is None:
            raise OptimizeError(f"{folder}: the data of variable '{variable.name}' is not there; copy variables/ whole")
        found[holder] = value
    for node in nodes.values():
        for text in node.input:
            source, _ = ref_of(text)
            if source in graph.variables and node.op not in READS_HANDLES:
                raise OptimizeError(
                    f"{folder}: {node.op} '{node.name}' takes variable '{graph.variables[source].name}' itself, not its value; "
                    "only variables that are read can be written again"
                )
    return found
