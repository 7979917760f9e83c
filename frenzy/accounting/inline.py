"""Functions inlined: a library of FunctionDefs and a graph become one flat list of nodes, however deep the calls go.

A conditional whose predicate is a literal of the file is the branch that it takes; any other stays one node, and so do loops.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import op_def_registry

from frenzy.accounting.fused import parts
from frenzy.accounting.graph import PASSES_ON, AccountingError, Ref

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"})
IFS = frozenset({"If", "StatelessIf"})
CASES = frozenset({"Case", "StatelessCase"})
MAX_NODES = 1_000_000


@dataclasses.dataclass
class _Frame:
    """One body being inlined: its nodes in order, what its tensors are in the flat graph, and what to do at its end."""

    function: str
    nodes: Sequence[NodeDef]
    flat: dict[str, Ref]  # "argument", "node:0" or "node:output:0" -> flat tensor
    returns: Sequence[str]
    call: str  # the call node in the frame below
    next: int = 0

    def __post_init__(self) -> None:
        self.by_name = {node.name: node for node in self.nodes}


def _strip(ref: str) -> str:
    return ref.split(":", 1)[0]


def _data_inputs(node: NodeDef) -> list[str]:
    return [ref for ref in node.input if not ref.startswith("^")]


def needed(nodes: Iterable[NodeDef], wanted: Iterable[str], known: Iterable[str] = ()) -> list[NodeDef]:
    """The nodes that the wanted tensors need, producers first; `known` names are given from outside. No recursion."""
    by_name = {node.name: node for node in nodes}
    done, order = set(known), []
    stack = [(_strip(ref), False) for ref in wanted]
    open_nodes: set[str] = set()
    while stack:
        name, leaving = stack.pop()
        if leaving:
            open_nodes.discard(name)
            done.add(name)
            order.append(by_name[name])
        elif name not in done:
            if name not in by_name:
                raise AccountingError(f"the graph reads '{name}', which it does not hold; the file is damaged")
            if name in open_nodes:
                raise AccountingError(f"node '{name}' depends on itself; loops of the TensorFlow 1 kind cannot be counted")
            open_nodes.add(name)
            stack.append((name, True))
            sources = map(_strip, _data_inputs(by_name[name]))
            stack.extend((source, False) for source in sources if source not in done)
    return order


def _output_offset(node: NodeDef, output: str) -> int:
    """Where the named output begins among a node's outputs."""
    op = op_def_registry.get(node.op)
    offset = 0
    for argument in op.output_arg if op else ():
        if argument.name == output:
            break
        if argument.number_attr:
            offset += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            offset += len(node.attr[argument.type_list_attr].list.type)
        else:
            offset += 1
    return offset


class Inliner:
    """Collects flat nodes under short unique names: a body's own names, with the call in front only where they collide."""

    def __init__(self, library: Mapping[str, function_pb2.FunctionDef]):
        self.library = library
        self.nodes: list[NodeDef] = []
        self.by_name: dict[str, NodeDef] = {}
        self.captures: dict[tuple[str, int], Ref] = {}  # (function, position among its arguments) -> flat tensor, first seen

    def add(self, node: NodeDef, inputs: Sequence[Ref], call: str = "") -> str:
        """A copy of the node under a unique name; returns the name."""
        if len(self.nodes) >= MAX_NODES:
            raise AccountingError(f"more than {MAX_NODES:,} nodes after inlining; a function is called too many times to count")
        copy = NodeDef()
        copy.CopyFrom(node)
        copy.name = self._unique(node.name, call)
        copy.device = ""
        copy.ClearField("input")
        copy.input.extend(f"{name}:{index}" for name, index in inputs)
        self.nodes.append(copy)
        self.by_name[copy.name] = copy
        return copy.name

    def _add_parts(self, node: NodeDef, inputs: Sequence[Ref], call: str) -> Ref:
        """The node, or the chain of plain nodes that a fused one stands for; returns its output."""
        made: Ref | None = None
        for part, own in parts(node, inputs):
            made = (self.add(part, own if made is None else (made, *own[1:]), call), 0)
        assert made is not None
        return made

    def _unique(self, name: str, call: str) -> str:
        candidate = name if name not in self.by_name or not call else f"{call}/{name}"
        number, base = 0, candidate
        while candidate in self.by_name:
            number += 1
            candidate = f"{base}_{number}"
        return candidate

    def graph(self, graph: graph_pb2.GraphDef, outputs: Sequence[str], given: Mapping[str, Ref]) -> list[Ref]:
        """Inlines what the outputs ('node:0') of a main graph need beside the given nodes; returns them as flat tensors."""
        return self._run(_Frame("", needed(graph.node, outputs, given), dict(given), outputs, ""))

    def function(self, name: str, arguments: Sequence[Ref]) -> list[Ref]:
        """Inlines a function applied to flat tensors; returns its results."""
        return self._run(self._frame(name, arguments, ""))

    def _frame(self, name: str, arguments: Sequence[Ref], call: str) -> _Frame:
        definition = self.library[name]
        names = [argument.name for argument in definition.signature.input_arg]
        if len(names) != len(arguments):
            raise AccountingError(
                f"'{name}' takes {len(names)} arguments and is called with {len(arguments)}; the file is damaged"
            )
        for position, ref in enumerate(arguments):
            self.captures.setdefault((name, position), ref)
        returns = [definition.ret[result.name] for result in definition.signature.output_arg]
        nodes = needed(definition.node_def, returns, names)
        return _Frame(name, nodes, dict(zip(names, arguments, strict=True)), returns, call)

    def _literal(self, ref: Ref) -> bool | int | None:
        """The value of a truth value or number that the file gives as a literal, seen through identities and negations."""
        flips = 0
        while (node := self.by_name.get(ref[0])) is not None and node.op in PASSES_ON | {"LogicalNot"} and node.input:
            flips += node.op == "LogicalNot"
            name, index = node.input[ref[1] if node.op == "IdentityN" else 0].rsplit(":", 1)
            ref = (name, int(index))
        if node is None or node.op != "Const":
            return None
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.ndim or value.dtype.kind not in "biu":
            return None
        return bool(value) != bool(flips % 2) if value.dtype.kind == "b" else int(value)

    def _callee(self, node: NodeDef, inputs: Sequence[Ref]) -> tuple[str | None, Sequence[Ref]]:
        """The function that a node stands for, and what it is applied to; None for a plain node."""
        if node.op in CALLS:
            return node.attr["f"].func.name, inputs
        if node.op in IFS | CASES and (chosen := self._literal(inputs[0])) is not None:
            branches = [f.name for f in node.attr["branches"].list.func]
            if node.op in IFS:
                return node.attr["then_branch" if chosen else "else_branch"].func.name, inputs[1:]
            return branches[chosen if 0 <= chosen < len(branches) else -1], inputs[1:]  # what is out of range takes the last
        return (node.op if node.op in self.library else None), inputs

    def _run(self, first: _Frame) -> list[Ref]:
        stack = [first]
        while True:
            frame = stack[-1]
            if frame.next == len(frame.nodes):
                results = [self._resolve(frame, ref) for ref in frame.returns]
                stack.pop()
                if not stack:
                    return results
                self._name_outputs(stack[-1], frame, results)
                continue
            node = frame.nodes[frame.next]
            frame.next += 1
            inputs: Sequence[Ref] = [self._resolve(frame, ref) for ref in _data_inputs(node)]
            callee, inputs = self._callee(node, inputs)
            if callee is None:
                frame.flat[node.name] = self._add_parts(node, inputs, frame.call)
            elif callee not in self.library:
                raise AccountingError(f"node '{node.name}' calls '{callee}', which the file does not hold; the file is damaged")
            elif any(callee == open_frame.function for open_frame in stack):
                raise AccountingError(f"function '{callee}' calls itself (node '{node.name}'); recursion cannot be counted")
            else:
                stack.append(self._frame(callee, inputs, node.name))

    def _name_outputs(self, caller: _Frame, frame: _Frame, results: Sequence[Ref]) -> None:
        names = [result.name for result in self.library[frame.function].signature.output_arg]
        caller.flat[frame.call] = results[0] if results else ("", 0)
        for index, (name, ref) in enumerate(zip(names, results, strict=True)):
            caller.flat[f"{frame.call}:{index}"] = ref
            caller.flat[f"{frame.call}:output:{index}"] = ref
            caller.flat.setdefault(f"{frame.call}:{name}:0", ref)

    def _resolve(self, frame: _Frame, ref: str) -> Ref:
        if ref in frame.flat:
            return frame.flat[ref]
        name, *rest = ref.split(":")
        if name not in frame.flat or not 1 <= len(rest) <= 2 or not rest[-1].isdecimal():
            raise AccountingError(f"'{ref}' is read but made nowhere; the file is damaged")
        flat_name, index = frame.flat[name][0], int(rest[-1])
        if len(rest) == 1:  # main graph: node:index
            return flat_name, index
        node = frame.by_name.get(name)  # none for an argument
        return flat_name, index + (_output_offset(node, rest[0]) if node else 0)
