"""Single-path NAS: a network's convolutions learn their kernels and widths while it trains, within a budget.

net = supernet(model)                               # trains as any tf_keras network
state = penalize(net, operations(), 20e6)           # its loss: + lambda log(operations / 20e6)
controller = Controller(net, operations(), 20e6, state, Plan())   # a callback that sets lambda
decisions, log = repair(net, operations(), 20e6)    # after training: to the budget, never above
small = extract(model, decisions, net.model)        # plain layers, the masked network's logits
"""

from frenzy.compress.single_path.controller import Controller, Decided, Plan, State, check_budget, penalize
from frenzy.compress.single_path.decisions import Decision, Decisions, RowsFile, choices, read_rows
from frenzy.compress.single_path.extract import extract
from frenzy.compress.single_path.graph import network_of
from frenzy.compress.single_path.objective import Objective, latency, operations, parse_bytes, score, storage
from frenzy.compress.single_path.repair import repair
from frenzy.compress.single_path.supernet import FRACTIONS, Supernet, searchable, supernet
from frenzy.compress.single_path.uniform import uniform

__all__ = [
    "FRACTIONS", "Controller", "Decided", "Decision", "Decisions", "Objective", "Plan", "RowsFile", "State", "Supernet", "check_budget",
    "choices", "extract", "latency", "network_of", "operations", "parse_bytes", "penalize", "read_rows", "repair", "score",
    "searchable", "storage", "supernet", "uniform",
]  # fmt: skip
