"""The accountant: a SavedModel on disk, judged node by node.

from frenzy.accounting import account, read
report = account(read("SavedModel/"), "frenzy")
"""

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator, Sequence

from frenzy.accounting.account import convention_named, find_facts, price
from frenzy.accounting.conventions import CONVENTIONS, TASKS, Convention
from frenzy.accounting.graph import AccountingError, Graph
from frenzy.accounting.report import Report


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within, no cyclic garbage is looked for: a walk makes many objects that all stay, and searching them takes a third of it.

    Nor right after: what was made joins the oldest generation, unless the caller keeps objects frozen, which thawing would free.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@_uncollected()
def read(folder: str | os.PathLike, entry: str | None = None, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph behind an entry of a SavedModel; see saved_model.read_graph. TensorFlow is imported here and not before."""
    from frenzy.accounting.saved_model import read_graph

    return read_graph(folder, entry, input_shape)


@_uncollected()
def accounts(graph: Graph, conventions: Iterable[str | Convention], task: str = "cifar100") -> dict[str, Report]:
    """A graph under several conventions, by their names, scored against a task's baseline; facts are found once for all.

    A convention is one of CONVENTIONS, by name, or a variant: dataclasses.replace(CONVENTIONS["micronet"], terms=...).
    Values come from the checkpoint beside the graph, if it is there. Raises AccountingError for a name that is not known.
    """
    from frenzy.accounting.checkpoint import Values

    rules = [convention_named(convention) for convention in conventions]
    values = Values(graph.folder)
    found = {live: find_facts(graph, values, live) for live in {convention.live for convention in rules}}
    return {convention.name: price(graph, found[convention.live], convention, task) for convention in rules}


def account(graph: Graph, convention: str | Convention = "frenzy", task: str = "cifar100") -> Report:
    """A graph under one convention: accounts() for a single one."""
    (report,) = accounts(graph, [convention], task).values()
    return report


__all__ = ["CONVENTIONS", "TASKS", "AccountingError", "Graph", "Report", "account", "accounts", "read"]
