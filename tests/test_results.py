"""tools/results.py: the tables that it makes of model cards."""

import json

import pytest

from frenzy import export
from frenzy.accounting import account, read
from tools import cli, results

FOLDER = "zoo/microbotnet_x032_cifar10"
DONE = {
    "method": "ttq",
    "options": {"threshold": 0.25},
    "tensors": 31,
    "weights": 153_792,
    "zeros": 110_000,
    "top1_before": 0.8136,
}


@pytest.fixture(scope="module")
def card():
    return export.read_card(results.ROOT / FOLDER)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_for_every_network_and_what_repeats_it(card):
    lines = results.markdown({FOLDER: card}).splitlines()
    assert cells(lines[0]) == list(results.HEAD)
    found = dict(zip(results.HEAD, cells(lines[2]), strict=True))
    assert (found["network"], found["data"], found["parameters"]) == ("microbotnet_x0.32", "cifar10", "236,658")
    assert found["top-1"] == f"{card['accuracy']['top1']:.2%}"
    assert not any(line.startswith("| folder |") for line in lines)
    assert lines[-1] == f"  `{card['command']}`"
    (energies,) = [cells(line) for line in lines if line.startswith(f"| `{FOLDER}/` |")]
    assert energies[1:] == [
        "3.84",
        "9.69",
    ]  # microjoules; 46 MACs at 0.1 pJ less an add a dot, and activations: tests/test_energy.py


def test_compressed_networks_have_a_table_of_their_own(card):
    lines = results.markdown({FOLDER: {**card, "compression": DONE}}).splitlines()[4:]
    found = dict(zip(results.COMPRESSED, cells(lines[2]), strict=True))
    assert cells(lines[0]) == list(results.COMPRESSED)
    assert lines[3] == ""
    report = account(read(results.ROOT / FOLDER), "micronet")
    assert (found["method"], found["before"]) == ("ttq threshold 0.25", "81.36%")
    assert found["zeros"] == f"110,000 of 153,792 ({110_000 / 153_792:.1%})"
    assert found["MS, bytes"] == f"{float(report.totals.storage_bytes):,.0f}"
    assert found["score"] == f"{float(report.score.storage + report.score.operations):.5f}"
    assert report.totals.storage_bytes < int(found["packed, bytes"].replace(",", "")) < 2 * report.totals.storage_bytes


def test_a_run_that_continues_another_is_repeated_from_the_first():
    assert results.commands({}, "c") == ["c"]
    assert results.commands({"continued": {"command": "b", "continued": {"command": "a"}}}, "c") == ["a", "b", "c"]
    first = {"recipe": {"epochs": 90}}
    assert results.epochs({"recipe": {"epochs": 20}, "continued": {"recipe": {"epochs": 60}, "continued": first}}) == [
        90,
        60,
        20,
    ]


def test_the_marks_stay_and_what_is_between_them_goes(tmp_path, monkeypatch):
    text = f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n"
    assert results.replaced(text, "new\n") == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter\n"
    monkeypatch.setattr(results, "FLAGS", type("Flags", (), {"write": "R.md"}))
    with pytest.raises(cli.UsageError, match=r"R\.md needs one line '<!-- networks"):
        results.replaced(text + results.BEGIN, "new")


def test_folders_are_those_with_a_graph(tmp_path):
    for name in ("zoo/b", "zoo/a", "zoo/empty", "SavedModel"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("zoo/b", "zoo/a", "SavedModel"):
        (tmp_path / name / "saved_model.pb").write_text(json.dumps({}))
    assert [str(f.relative_to(tmp_path)) for f in results.folders(tmp_path)] == ["SavedModel", "zoo/a", "zoo/b"]
