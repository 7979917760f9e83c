"""The accountant: a SavedModel on disk, judged node by node.

from frenzy.accounting import account, read
report = account(read("SavedModel/"), "frenzy")
"""

import os
from collections.abc import Iterable, Sequence

from frenzy.accounting.account import convention_named, find_facts, price
from frenzy.accounting.conventions import CONVENTIONS, TASKS
from frenzy.accounting.graph import AccountingError, Graph
from frenzy.accounting.report import Report


def read(folder: str | os.PathLike, entry: str | None = None, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph behind an entry of a SavedModel; see saved_model.read_graph. TensorFlow is imported here and not before."""
    from frenzy.accounting.saved_model import read_graph

    return read_graph(folder, entry, input_shape)


def accounts(graph: Graph, conventions: Iterable[str], task: str = "cifar100") -> dict[str, Report]:
    """A graph under several conventions, scored against a task's baseline; facts are found once for all.

    Values come from the checkpoint beside the graph, if it is there. Raises AccountingError for a name that is not known.
    """
    from frenzy.accounting.checkpoint import Values

    rules = {name: convention_named(name) for name in conventions}
    values = Values(graph.folder)
    found = {live: find_facts(graph, values, live) for live in {convention.live for convention in rules.values()}}
    return {name: price(graph, found[convention.live], name, task) for name, convention in rules.items()}


def account(graph: Graph, convention: str = "frenzy", task: str = "cifar100") -> Report:
    """A graph under one convention: accounts() for a single name."""
    return accounts(graph, [convention], task)[convention]


__all__ = ["CONVENTIONS", "TASKS", "AccountingError", "Graph", "Report", "account", "accounts", "read"]
