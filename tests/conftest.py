"""Shared by all tests: TensorFlow kept quiet, small SavedModels, and the invariants that hold for every report."""

import os
import re
from fractions import Fraction

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import pytest

from frenzy.accounting import CONVENTIONS, Report, accounts, read
from frenzy.accounting.report import COUNTED, FOLDED, FREE, UNKNOWN

pytest_plugins = ["standalone_case"]  # fixtures of the tests of standalone_inference.py


def exact(formula: str) -> Fraction:
    """The value of a formula over whole numbers and decimals, without rounding."""
    return eval(re.sub(r"\d+(\.\d+)?", lambda number: f"Fraction('{number[0]}')", formula) or "Fraction(0)")


def check_report(report: Report, graph) -> None:
    """Rows sum to totals, formulas give the operations, no data node is lost, no weight is counted twice."""
    totals = report.totals
    assert totals.operation_bits == sum(row.operation_bits for row in report.rows)
    assert totals.storage_bits == sum(row.storage_bits for row in report.rows)
    assert [row.name for row in report.rows] == [name for name in graph.nodes if name in graph.data_nodes]
    for row in report.rows:
        assert row.status in (COUNTED, FREE, FOLDED, UNKNOWN)
        if row.status == UNKNOWN:
            assert row.operation_bits == row.storage_bits == 0
            assert row.op in row.formula
        else:
            assert exact(row.formula.split("#")[0]) == row.operations, row
        if row.status == FREE:
            assert row.operation_bits == row.storage_bits == 0
        if row.nonzero is not None:
            assert row.nonzero >= 0
        assert set(row.inputs) <= set(graph.data_nodes)


@pytest.fixture
def judge(tmp_path):
    """judge(function, *specs) -> the graph and {convention: checked report} of the function as a SavedModel without signatures."""

    def run(function, *specs, module=None, name="model", **kwargs):
        import tensorflow as tf

        module = module or tf.Module()
        module.__call__ = tf.function(function, input_signature=specs)
        folder = tmp_path / name
        tf.saved_model.save(module, str(folder), signatures={})
        return judge_folder(folder, **kwargs)

    return run


def judge_folder(folder, **kwargs):
    graph = read(folder, **kwargs)
    reports = accounts(graph, CONVENTIONS)
    for report in reports.values():
        check_report(report, graph)
    return graph, reports


@pytest.fixture(scope="session")
def frenzy_folder(tmp_path_factory):
    """The final network with fresh weights, exported as SavedModel/ is."""
    import tf_keras as keras

    from frenzy import export, models

    keras.utils.set_random_seed(0)
    model = models.build("frenzy", 100)
    export.round_weights(model, "float16")
    folder = tmp_path_factory.mktemp("export") / "frenzy"
    names = [f"class {i}" for i in range(100)]
    export.export(
        model, folder, export.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), names, facts={"dataset": "cifar100"}
    )
    return folder
