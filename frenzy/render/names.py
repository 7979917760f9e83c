"""Graph names as people would write them: frenzy/block1_add/add -> block1_add. Tables and pictures only; data keeps names whole."""

import collections
import re
from collections.abc import Mapping, Sequence

from frenzy.accounting.report import Row
from frenzy.render.units import op_name

COMMON = 0.8  # a scope around so large a share of the scoped names says nothing


def short_names(rows: Sequence[Row]) -> dict[str, str]:
    """name -> what to show: without the scope that nearly all names share, and without last parts that repeat the op.

    No two rows of one op are shown alike: where they would be, both keep their last part, or are left whole.
    """
    scope = shared_scope([row.name for row in rows])
    ops = {row.name: row.op for row in rows}
    inner = {name: name[len(scope) :] if name.startswith(scope) else name for name in ops}
    bare = {name: _without_op(inner[name], op) for name, op in ops.items()}
    return _distinct(bare, _distinct(inner, {name: name for name in ops}, ops), ops)


def shared_scope(names: Sequence[str]) -> str:
    """The leading parts, each with its '/', that nearly all scoped names share."""
    scope = ""
    while True:
        scoped = [name for name in names if name.startswith(scope) and "/" in name[len(scope) :]]
        firsts = collections.Counter(name[: name.index("/", len(scope)) + 1] for name in scoped)
        longest, count = max(firsts.items(), key=lambda item: item[1], default=("", 0))
        if count < 2 or count < COMMON * sum("/" in name for name in names):
            return scope
        scope = longest


def _without_op(name: str, op: str) -> str:
    """expand/BatchNorm/FusedBatchNormV3 -> expand, but pad/Pad -> pad: a layer named like its op keeps its name."""
    repeats = {op.lower(), op_name(op).lower(), op.lower().removesuffix("conv2dnative")}
    dropped = ""
    while "/" in name:
        scope, _, last = name.rpartition("/")
        plain = re.sub(r"_\d+$", "", last).lower()
        if plain not in repeats or plain == dropped:
            break
        name, dropped = scope, plain
    return name


def _distinct(wanted: Mapping[str, str], otherwise: Mapping[str, str], ops: Mapping[str, str]) -> dict[str, str]:
    """What is wanted, and otherwise for those that another row of the same op would be shown as."""
    chosen = dict(wanted)
    while True:
        times = collections.Counter((short, ops[name]) for name, short in chosen.items())
        clashes = [name for name, short in chosen.items() if times[short, ops[name]] > 1 and short != otherwise[name]]
        if not clashes:
            return chosen
        chosen.update({name: otherwise[name] for name in clashes})
