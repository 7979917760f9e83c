"""The accountant: a SavedModel on disk, judged node by node.

from frenzy.accounting import account, read
report = account(read("SavedModel/"), "frenzy")
"""

import os
from collections.abc import Sequence

from frenzy.accounting.account import find_facts, price
from frenzy.accounting.conventions import CONVENTIONS, TASKS
from frenzy.accounting.graph import AccountingError, Graph
from frenzy.accounting.report import Report


def read(folder: str | os.PathLike, entry: str | None = None, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph behind an entry of a SavedModel; see saved_model.read_graph. TensorFlow is imported here and not before."""
    from frenzy.accounting.saved_model import read_graph

    return read_graph(folder, entry, input_shape)


def account(graph: Graph, convention: str = "frenzy", task: str = "cifar100") -> Report:
    """A graph under a convention, scored against a task's baseline. Values come from the checkpoint beside it, if it is there."""
    from frenzy.accounting.checkpoint import Values

    return price(graph, find_facts(graph, Values(graph.folder)), convention, task)


__all__ = ["CONVENTIONS", "TASKS", "AccountingError", "Graph", "Report", "account", "read"]
