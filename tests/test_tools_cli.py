"""tools/count.py and tools/visualize.py: one clear line for every bad input, and outputs that are whole or not there."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from winner_report import winner_report

from frenzy.accounting.report import UNKNOWN, Report, Row
from frenzy.render import picture, table
from frenzy.render.files import RenderError
from tools import cli, count, visualize

ROOT = pathlib.Path(cli.__file__).parents[1]
TOOLS = ["count.py", "visualize.py"]


def start(tool, *arguments, cwd, **environment):
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def without_tensorflow(tmp_path):
    """An environment in which importing TensorFlow fails: what still works there does not wait for it."""
    package = tmp_path / "path" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    return {"PYTHONPATH": str(package.parent)}


def with_unknown() -> Report:
    report = winner_report()
    odd = Row("odd", "Exotic", (), ((1, 100),), (1, 10), status=UNKNOWN, formula="no rule for op 'Exotic'")
    return dataclasses.replace(report, rows=(*report.rows, odd))


COUNT_FLAGS = {
    "format": "table", "output": None, "strict": False, "reconcile": False, "convention": "frenzy", "by": None, "depth": None,
    "top": None, "metric": "operations", "diff": None,
}  # fmt: skip


@pytest.fixture
def counting(monkeypatch):
    """counting(report, format=..., output=..., strict=...) -> main()'s exit code, without a SavedModel or flags."""

    def run(report=None, **given):
        monkeypatch.setattr(cli, "load_report", lambda: report or winner_report())
        monkeypatch.setattr(count, "FLAGS", types.SimpleNamespace(**{**COUNT_FLAGS, **given}))
        return count.main()

    return run


# bad input


BAD = {
    "unknown flag": (["--nope"], "Unknown command line flag 'nope'"),
    "unknown convention": (["--convention=nope"], "--convention=nope: value should be one of <"),
    "unknown task": (["--task=mnist"], "--task=mnist: value should be one of <cifar100|imagenet|wikitext103>"),
    "stray argument": (["stray"], "unexpected argument 'stray'"),
    "no such folder": (["--load_folder=nowhere"], "no folder nowhere; --load_folder takes the folder of a SavedModel"),
    "no SavedModel": (["--load_folder=path"], "path is no SavedModel: it holds no saved_model.pb"),
    "bad shape": (["--input_shape=32,x"], "--input_shape=32,x: positive whole numbers with commas between"),
    "missing value": (["--entry"], "Missing value for flag --entry"),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_at_once(tmp_path, without_tensorflow, tool, case):
    arguments, expected = BAD[case]
    extra = ["--output=graph.dot"] if tool == "visualize.py" else []
    done = start(tool, *extra, *arguments, cwd=tmp_path, **without_tensorflow)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{tool}: ")
    assert expected in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["path"]


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("count.py", ["--format=xml"], "--format=xml: value should be one of <table|json|csv|model_explorer|"),
        ("count.py", ["--by=layer"], "--by=layer: value should be one of <node|op|module>"),
        ("count.py", ["--top=0"], "flag --top=0: 0 is not a positive integer"),
        ("count.py", ["--depth=2"], "--depth is that of modules; add --by module, or leave it out"),
        ("count.py", ["--diff", "path"], "--diff path: a second folder is missing; --diff takes two: --diff BEFORE AFTER"),
        ("count.py", ["--diff", "a", "b", "--top=2", "c"], "unexpected argument 'c'; flags start with '--'"),
        ("count.py", ["--diff", "path", "nowhere"], "--diff: path is no folder with a saved_model.pb; name two SavedModels"),
        (
            "count.py",
            ["--by=op", "--format=model_explorer"],
            "gives every node of one network; for --by choose table, json, csv",
        ),
        (
            "count.py",
            ["--convention=all", "--top=3"],
            "--convention all gives a table of totals; for --top name one convention",
        ),
        ("visualize.py", ["--output=graph.gif"], "unknown suffix '.gif'; allowed are .png, .svg, .pdf, .dot"),
        ("visualize.py", ["--output=graph.svg"], "no 'dot' on the PATH: install graphviz"),
    ],
)
def test_bad_input_of_one_tool(tmp_path, without_tensorflow, tool, arguments, expected):
    done = start(tool, *arguments, cwd=tmp_path, PATH=str(tmp_path), **without_tensorflow)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert expected in done.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_help(tmp_path, without_tensorflow, tool):
    done = start(tool, "--help", cwd=tmp_path, **without_tensorflow)
    for flag in ("--load_folder", "--convention", "--entry", "--input_shape", "--task", "--output"):
        assert flag in done.stdout


# count


def test_formats(counting, capsys):
    assert counting() == 0
    assert capsys.readouterr().out == table.table(winner_report())
    assert counting(format="json") == 0
    assert json.loads(capsys.readouterr().out)["totals"]["operations"] == 828_928_000
    assert counting(format="csv") == 0
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 108


def test_output_file(counting, tmp_path, capsys):
    path = tmp_path / "count.json"
    assert counting(format="json", output=str(path)) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text())["convention"] == "frenzy"


def test_unwritable_output(counting, tmp_path):
    with pytest.raises(RenderError, match=r"cannot write .*nowhere/count\.json: no such file or directory"):
        counting(output=str(tmp_path / "nowhere" / "count.json"))


def test_strict(counting, capsys):
    assert counting(strict=True) == 0
    capsys.readouterr()
    assert counting(with_unknown()) == 0
    assert capsys.readouterr().err == ""
    assert counting(with_unknown(), strict=True) == 1
    out, err = capsys.readouterr()
    assert out == table.table(with_unknown())
    assert err == "count.py: not counted: Exotic 'odd', 100 -> 10: no rule for op 'Exotic'\n"


def test_views(counting, capsys):
    assert counting(by="op", format="csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows[:2]] == ["Conv2D", "AvgPool"]
    assert counting(top=2, metric="parameters", format="json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["block8_conv1", "block7_conv2"]
    assert counting(by="module", depth=1, top=1) == 0
    assert "shown: 1 of 107, the dearest by operations" in " ".join(capsys.readouterr().out.split())


def test_diff_takes_two_folders(tmp_path):
    for name in "AB":
        shutil.copytree(ROOT / "SavedModel", tmp_path / name)
    done = start("count.py", "--diff", "A", "--format=json", "B", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["before"]["folder"], found["after"]["folder"]) == ("A", "B")
    assert found["totals"]["operations_before"] == found["totals"]["operations_after"] == 828_928_000
    assert {change["match"] for change in found["changes"]} == {"name"}


def test_model_explorer(tmp_path):
    done = start(
        "count.py", "--format=model_explorer", "--metric=storage", f"--load_folder={ROOT / 'SavedModel'}", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    graphs = json.loads(done.stdout)
    assert len(graphs) == 2
    assert {sum(each["value"] for each in graph["results"].values()) for graph in graphs.values()} == {8_839_600}


def test_strict_looks_at_both_networks(monkeypatch, capsys, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    reports = {"a": winner_report(), "b": with_unknown()}
    folders = [str(tmp_path / name) for name in "ab"]
    for given in (folders, folders[::-1]):
        flags = types.SimpleNamespace(**{**COUNT_FLAGS, "diff": given[0], "strict": True, "top": 1})
        monkeypatch.setattr(count, "FLAGS", flags)
        monkeypatch.setattr(cli, "load_report", lambda flags=flags: reports[flags.load_folder[-1]])
        assert count.main(given[1]) == 1
        assert capsys.readouterr().err.startswith("count.py: not counted: Exotic 'odd'")


# visualize


@pytest.mark.skipif(shutil.which("dot") is None, reason="no 'dot' on the PATH: graphviz is not installed")
def test_visualize(monkeypatch, tmp_path, capsys):
    path = tmp_path / "graph.svg"
    monkeypatch.setattr(cli, "load_report", winner_report)
    monkeypatch.setattr(visualize, "FLAGS", types.SimpleNamespace(output=str(path), collapse=True))
    assert visualize.main() is None
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert "block4_shortcut_pool" in path.read_text()


def test_visualize_checks_the_output_first(monkeypatch):
    monkeypatch.setattr(cli, "load_report", lambda: pytest.fail("the network was read first"))
    monkeypatch.setattr(visualize, "FLAGS", types.SimpleNamespace(output="graph.gif", collapse=False))
    with pytest.raises(picture.RenderError, match=r"unknown suffix '\.gif'"):
        visualize.main()


# what the tools share


@pytest.mark.parametrize(
    ("text", "shape"), [(None, None), ("224,224,3", (224, 224, 3)), ("32x32x3", (32, 32, 3)), ("1, 8", (1, 8))]
)
def test_parse_shape(text, shape):
    assert cli.parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "3,", "3,-1", "0,3", "a", "3.5", "²"])
def test_bad_shapes(text):
    with pytest.raises(cli.UsageError, match=r"--input_shape=.*: positive whole numbers with commas between"):
        cli.parse_shape(text)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("error", [cli.UsageError, *cli.USER_ERRORS])
def test_user_errors_are_one_line(error, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli._guarded(raising(error("the file\nis damaged")))
    assert capsys.readouterr().err.endswith(": the file is damaged\n")


def test_exit_codes(capsys):
    assert cli._guarded(lambda: None) == 0
    assert cli._guarded(lambda: 1) == 1
    assert cli._guarded(raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError, match="a bug stays a bug"):
        cli._guarded(raising(ZeroDivisionError("a bug stays a bug")))


def test_a_closed_pipe_is_no_error(tmp_path):
    code = "import sys; from tools import cli; sys.argv = ['x']; cli.run(lambda: [print('y' * 4096) for _ in range(1000)] and None)"
    command = f'"{sys.executable}" -c "{code}" | head -c 10'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("y" * 10, "")


def test_hushed_gives_stderr_back(capfd):
    with cli.hushed():
        os.write(2, b"greetings")
    os.write(2, b"news")
    assert capfd.readouterr().err == "news"


def test_all_conventions_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "load_reports", lambda names: [winner_report(name) for name in ("frenzy", "micronet")])
    values = {**COUNT_FLAGS, "output": str(tmp_path / "all.txt"), "convention": "all"}
    monkeypatch.setattr(count, "FLAGS", types.SimpleNamespace(**values))
    assert count.main() == 0
    text = (tmp_path / "all.txt").read_text()
    assert "frenzy                   4,419,800    8.430 MiB        828,928,000 operations    0.2001" in text
    assert "micronet                 4,426,420    8.443 MiB        812,298,830 operations    0.1381" in text
    assert max(map(len, text.splitlines())) <= table.WIDTH
    monkeypatch.setattr(count, "FLAGS", types.SimpleNamespace(**{**values, "format": "json"}))
    with pytest.raises(cli.UsageError, match="--convention all gives a table of totals; for --format json name one convention"):
        count.main()
