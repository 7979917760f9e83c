"""SavedModel -> SavedModel: a graph as small as it is counted, with equal logits.

    literals computed | nodes that do nothing | zero and constant channels | batch norms into convs | casts

Each pass reads the accountant's analyses off the graph as it is, changes what these prove, and says of the rest why not. The
accountant prices a BN beside a conv as folded and leaves zero channels out; here that becomes true of the graph. Under
`micronet` the report of the result is therefore that of the original, to the operation and the bit. Two things lie outside: vectors
beside an op lose the constants of dead channels, which the accountant counts whole; and a bias of exact zeros is stored as a
mask, so where weights are fresh a fold may make a bias smaller or larger. `frenzy` has BN for nothing and biases not: there every
bias that a BN or constant channels became adds an add an output and 16 bits a channel.
"""

import dataclasses
import datetime
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

import tensorflow as tf

from frenzy import export
from frenzy.accounting import Report, accounts, read
from frenzy.optimize.channels import remove_channels
from frenzy.optimize.check import called, difference, images_for, interpreted, sample
from frenzy.optimize.network import Network, OptimizeError, Step, read_network, signatures
from frenzy.optimize.norms import fold_norms
from frenzy.optimize.tidy import drop_idle, fold_casts, fold_literals, narrow
from frenzy.optimize.write import write_networks

DTYPES = ("float32", "float16")
NAMED = 3  # nodes that a reason names


@dataclasses.dataclass(frozen=True)
class Result:
    """What an optimisation did: its passes, reports by convention `before` and `after`, and how far outputs are apart.

    difference: the largest that the passes make; rounding: the largest with weights rounded to 16 bits, None where they are not.
    card: the model card that was written, None where the original has none.
    """

    steps: tuple[Step, ...]
    before: Mapping[str, Report]
    after: Mapping[str, Report]
    difference: float
    rounding: float | None = None
    card: Mapping | None = None


def run_passes(network: Network, narrow_again: bool = False) -> tuple[Step, ...]:
    """All passes over one signature, in place. `narrow_again`: its weights are rounded to 16 bits afterwards."""
    return (
        fold_literals(network),
        drop_idle(network),
        remove_channels(network, images_for(network)),
        fold_norms(network, narrow_again),
        fold_casts(network),
    )


def optimize(
    folder: str | os.PathLike, output: str | os.PathLike, weight_dtype: str = "float32", task: str = "cifar100"
) -> Result:
    """Optimises every signature of a SavedModel and writes the result to `output`, whole or not at all.

    weight_dtype: "float32" stores folded weights at 32 bits, and outputs agree to 1e-4 (of a tenth of their size where that is
    above 10); "float16" rounds all weights again, for half the file, and says by how much the outputs then differ.
    Raises OptimizeError, AccountingError, ExportError.
    """
    folder, output = pathlib.Path(folder), pathlib.Path(output)
    names = _check(folder, output, weight_dtype)
    entry = "serving_default" if "serving_default" in names else names[0]
    original = _load(folder)
    networks, samples, steps, worst = [], [], {}, 0.0
    for name in names:
        network = read_network(folder, name)
        samples.append(sample(original, network))
        steps[name] = run_passes(network, weight_dtype == "float16")
        worst = max(worst, difference(samples[-1], interpreted(network)))
        if weight_dtype == "float16":
            narrow(network)
        networks.append(network)
    conventions = export.CARD_CONVENTIONS
    before = accounts(read(folder, entry), conventions, task)
    output.parent.mkdir(parents=True, exist_ok=True)
    new = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        write_networks(networks, new)
        written = _load(new)
        exact = weight_dtype == "float32"
        apart = max(difference(each, called(written, each.entry), bound=exact) for each in samples)
        result = Result(steps[entry], before, accounts(read(new, entry), conventions, task), worst, None if exact else apart)
        result = dataclasses.replace(result, card=_write_card(folder, new, written, result, task))
        os.chmod(new, 0o755)
        export.replace_folder(output, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return result


def lines(result: Result) -> list[str]:
    """A result in words: passes, what they left alone by reason, counts before and after, and how far outputs are apart."""
    found = []
    for step in result.steps:
        found.append(f"{step.changed:>5}  {step.name}")
        reasons: dict[str, list[str]] = {}
        for node, reason in step.left:
            reasons.setdefault(reason, []).append(node)
        for reason, nodes in reasons.items():
            named = ", ".join(filter(None, nodes[:NAMED])) + (", ..." if len(nodes) > NAMED else "")
            found.append(f"       left alone: {len(nodes)}, {reason}" + (f": {named}" if named else ""))
    for name in result.before:
        before, after = result.before[name].totals, result.after[name].totals
        storage = f"{float(before.storage_bytes):,.0f} -> {float(after.storage_bytes):,.0f} bytes"
        found.append(f"{name}: {storage}, {float(before.operations):,.0f} -> {float(after.operations):,.0f} operations")
    apart = f"outputs differ by {result.difference:.1e} at most"
    rounded = "" if result.rounding is None else f"; with weights rounded to 16 bits by {result.rounding:.1e}"
    return [*found, apart + rounded]


def _check(folder: pathlib.Path, output: pathlib.Path, weight_dtype: str) -> tuple[str, ...]:
    """The signatures of a SavedModel that can be optimised into `output`. Raises OptimizeError and AccountingError."""
    if weight_dtype not in DTYPES:
        raise OptimizeError(f"weights of {weight_dtype} cannot be written; --weight_dtype takes one of: {', '.join(DTYPES)}")
    names = signatures(folder)
    if not names:
        raise OptimizeError(f"{folder} has no signature to optimise; save it with signatures={{'serving_default': ...}}")
    if output.exists() and not (output / "saved_model.pb").is_file() and any(output.iterdir()):
        raise OptimizeError(f"{output} is there and is no SavedModel; it is left alone: name another folder")
    if output.exists() and output.samefile(folder):
        raise OptimizeError(f"{output} is the SavedModel that is read; name another folder by --output")
    return names


def _load(folder: pathlib.Path):
    try:
        return tf.saved_model.load(str(folder))
    except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise OptimizeError(f"{folder} cannot be loaded ({reason}); outputs could not be compared") from None


def _write_card(folder: pathlib.Path, new: pathlib.Path, written, result: Result, task: str) -> dict | None:
    """The original's card with what changed: counts, logits of the fixed image, versions, and what the passes did."""
    if not (folder / export.CARD).is_file():
        return None
    card = export.read_card(folder)
    if "golden_logits" in card and "input_shape" in card:
        images = tf.constant(export.fixed_images(card["input_shape"]))
        card["golden_logits"] = written.signatures["serving_default"](images=images)["logits"].numpy()[0].tolist()
    card["task"] = task
    card["counts"] = export.counts_of(new, task)
    card["variables_sha256"] = export.variables_sha256(new)
    card["optimized"] = {
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
        "accuracy": "measured before; the logits then differed from these by at most max_difference",
        "max_difference": result.difference if result.rounding is None else result.rounding,
        "passes": [
            {
                "name": step.name,
                "changed": step.changed,
                "left_alone": [{"node": node, "reason": why} for node, why in step.left],
            }
            for step in result.steps
        ],
    }
    export.write_card(new, card)
    return card


__all__ = ["DTYPES", "Network", "OptimizeError", "Result", "Step", "lines", "optimize", "read_network", "run_passes"]
