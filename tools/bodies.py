"""The function bodies behind an entry of a SavedModel, under the ids that Model Explorer gives to graphs and nodes."""

import os
from collections.abc import Iterable, Mapping

from tensorflow.core.framework import function_pb2
from tensorflow.core.framework.node_def_pb2 import NodeDef

from frenzy.accounting.inline import needed
from frenzy.accounting.saved_model import parse

MAIN = "main"  # what Model Explorer calls the graph outside all functions


def bodies(folder: str | os.PathLike, entry: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Graph id -> node id -> (name, op), for the functions that a signature calls, and theirs, and for the main graph.

    Ids as in frenzy/render/model_explorer.py. Without a signature of that name (an entry may be a function of the root object)
    there are none. Raises AccountingError.
    """
    meta = parse(folder)
    if entry not in meta.signature_def:
        return {}
    signature = meta.signature_def[entry]
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    used = needed(meta.graph_def.node, [output.name for output in signature.outputs.values()])
    names = {node.name for node in used}
    found = {MAIN: {str(i): (node.name, node.op) for i, node in enumerate(meta.graph_def.node) if node.name in names}}
    waiting = list(_called(used, library))
    while waiting:
        name = waiting.pop()
        if name not in found:
            nodes = library[name].node_def
            found[name] = {str(i): (node.name, node.op) for i, node in enumerate(nodes, 1)}
            waiting += _called(nodes, library)
    return found


def _called(nodes: Iterable[NodeDef], library: Mapping[str, function_pb2.FunctionDef]) -> Iterable[str]:
    for node in nodes:
        for attr in node.attr.values():
            yield from (f.name for f in (attr.func, *attr.list.func) if f.name in library)
