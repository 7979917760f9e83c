"""tools/benchmark.py: what the shared loop measures, by a clock that the tests turn; nothing here depends on real time."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import tensorflow as tf
from absl import flags

from tools import benchmark, cli
from tools.benchmarks import account, measure

ROOT = Path(cli.__file__).parents[1]


class Clock:
    """Time that passes only where a subject says so."""

    def __init__(self):
        self.now = 0.0
        self.ran = []

    def __call__(self):
        return self.now

    def subject(self, name, *seconds, prepare=0.0):
        """Takes these seconds in turn, and the last ones ever after."""
        left = list(seconds)

        def run(_):
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        def prepared():
            self.now += prepare

        return measure.Subject(name, run, prepared, {"nodes": len(name)})


# the loop


@pytest.fixture(autouse=True)
def no_garbage(monkeypatch):
    """Collecting what all tests of this process left takes seconds."""
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)


def test_subjects_take_turns():
    clock = Clock()
    timings = measure.measure([clock.subject("a", 1), clock.subject("b", 2), clock.subject("c", 3)], measure.Plan(3, 1), clock)
    assert "".join(clock.ran) == "abcbcacababc"
    assert [(each.name, each.seconds) for each in timings] == [("a", (1, 1, 1)), ("b", (2, 2, 2)), ("c", (3, 3, 3))]


@pytest.mark.parametrize(("warmup", "expected"), [(0, (9, 5, 1)), (1, (5, 1, 3)), (2, (1, 3, 3))])
def test_warm_up_is_thrown_away(warmup, expected):
    clock = Clock()
    (timing,) = measure.measure([clock.subject("a", 9, 5, 1, 3)], measure.Plan(3, warmup), clock)
    assert timing.seconds == expected
    assert timing.spread == measure.Spread(sorted(expected)[1], min(expected), max(expected))


def test_preparing_is_not_timed():
    clock = Clock()
    (timing,) = measure.measure([clock.subject("a", 2, prepare=50)], measure.Plan(2, 0), clock)
    assert timing.seconds == (2, 2)
    assert clock.now == 2 * (50 + 2)
    found = []
    measure.measure([measure.Subject("a", found.append, lambda: "ready")], measure.Plan(2, 1), clock)
    assert found == ["ready"] * 3


def test_ratios_are_taken_round_by_round():
    """A machine that is ten times slower in one round does not change a ratio."""
    clock = Clock()
    fast, slow = clock.subject("fast", 1, 10, 2), clock.subject("slow", 3, 30, 4)
    reference, other = measure.measure([fast, slow], measure.Plan(3, 0), clock)
    assert other.ratio(reference) == measure.Spread(3, 2, 3)
    assert reference.ratio(reference) == measure.Spread(1, 1, 1)


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (3, -1)])
def test_bad_plans(repeats, warmup):
    with pytest.raises(ValueError, match=rf"{repeats} repeats after {warmup} of warm-up; at least 1 and 0 are needed"):
        measure.Plan(repeats, warmup)


def test_line():
    assert measure.line([(x, 3 * x + 5) for x in (1, 4, 10)]) == measure.Line(3, 5, 1)
    bent = measure.line([(0, 0), (1, 1), (2, 4)])
    assert (bent.slope, bent.offset) == (2, pytest.approx(-1 / 3))
    assert bent.r2 == pytest.approx(1 - (1 / 9 + 4 / 9 + 1 / 9) / (26 / 3))
    assert measure.line([(7, 1), (7, 2)]) is None
    assert measure.line([(1, 4), (2, 4)]) == measure.Line(0, 4, 1)


def test_the_record_says_what_is_needed_to_repeat_it(monkeypatch):
    clock = Clock()
    plan = measure.Plan(3, 1)
    monkeypatch.setattr(sys, "argv", ["somewhere/benchmark.py", "account", "--depths=8", "--peer", "ours, float32"])
    timings = measure.measure([clock.subject("a", 9, 1, 2, 6)], plan, clock)
    found = json.loads(json.dumps(measure.record(timings, plan, benchmark="account")))
    assert found["command"] == "python tools/benchmark.py account --depths=8 --peer 'ours, float32'"
    assert found["timings"] == [{"name": "a", "nodes": 1, "median": 2, "least": 1, "most": 6, "seconds": [1, 2, 6]}]
    assert (found["repeats"], found["warmup"], found["benchmark"]) == (3, 1, "account")
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["machine"].keys() == {"processor", "cores", "memory_bytes", "system", "load"}
    assert found["machine"]["processor"]
    assert found["date"].endswith("+00:00")


# account


@pytest.mark.parametrize("text", ["21", "2", "20,x", "", "-20", "20,,32"])
def test_bad_depths(text):
    with pytest.raises(cli.UsageError, match=r"--depths=.*: a CIFAR ResNet has 6 n \+ 2 layers, from 8: 20,56,110 say"):
        account.parse_depths(text.split(",") if text else [])


def test_depths():
    assert account.parse_depths(["8", "110"]) == [8, 110]


def timed(network, nodes, read, priced, megabytes=0.0):
    facts = {"network": network, "nodes": nodes, "megabytes": megabytes}
    return [
        measure.Timing(f"read {network}", read, {"part": account.READ, **facts}),
        measure.Timing(f"account {network}", priced, {"part": account.ACCOUNT, **facts}),
    ]


def test_both_parts_are_summed_round_by_round():
    timings = [*timed("large", 3000, (2.0, 9.0, 1.0), (1.0, 1.0, 7.0)), *timed("small", 500, (0.25,) * 3, (0.25,) * 3)]
    both = account.totals(timings)
    assert [(each.name, each.seconds) for each in both] == [("small", (0.5, 0.5, 0.5)), ("large", (3.0, 10.0, 8.0))]
    assert account.per_thousand(both[0]) == 1000 * 0.5 / 500
    text = account.table(timings)
    lines = {line.split()[0]: line.split() for line in text.splitlines()[:4]}
    assert lines["large"] == ["large", "3,000", "2.000", "1.000", "8.000", "3.000", "10.000", "2.6667"]
    assert "large / small: 6.00 times the nodes,\n  16.00 times the seconds (6.00 to 20.00)\n" in text
    assert "a node costs 2.67 times as much in the largest as in the smallest" in text
    assert "line: 3.0000 s a thousand nodes, and -1.0000 s; R^2 1.0000" in text
    assert max(map(len, text.splitlines())) <= 80


def test_values_are_no_part_of_the_line():
    timings = [*timed("small", 500, (0.25,), (0.25,)), *timed("large", 3000, (2.0,), (1.0,))]
    lines = account.table([*timings, *timed("large +", 3000, (20.0,), (10.0,), 744.25)]).splitlines()
    assert "large +: with 744 MB of values" in lines
    assert lines[-3:] == account.table(timings).splitlines()[-3:]
    assert sum(line.startswith("large") for line in lines) == 4


def test_a_single_network_has_no_line():
    text = account.table(timed("AVeryLongNameOfANetwork", 123_456, (200.0,), (1000.0,)))
    assert "line" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_subjects_read_and_account(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(tf.ones((3, 3, 3, 5)))
    module.__call__ = tf.function(
        lambda x: tf.nn.relu(tf.nn.conv2d(x, module.kernel, 1, "SAME")), input_signature=[tf.TensorSpec((1, 8, 8, 3))]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={})
    reading, accounting = account.subjects([("tiny", tmp_path)])
    size = (tmp_path / "variables/variables.data-00000-of-00001").stat().st_size / 1e6
    assert reading.facts == {
        "part": "read",
        "network": "tiny",
        "nodes": 6,
        "rows": 4,
        "parameters": 3 * 3 * 3 * 5,
        "megabytes": size,
    }
    assert {**accounting.facts, "part": "read"} == reading.facts
    assert len(reading.run(reading.prepare()).nodes) == 6
    report = accounting.run(accounting.prepare())
    assert report.totals.multiplies >= (8 * 8 * 5) * (3 * 3 * 3)
    assert accounting.prepare() is not accounting.prepare()


@pytest.mark.slow
def test_account_from_the_command_line(tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "account", "--depths=8,14", "--repeats=2", f"--output={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("network")
    found = json.loads(path.read_text())
    assert [each["name"] for each in found["timings"] if each["part"] == "both"] == ["resnet8", "resnet14"]
    assert all(len(each["seconds"]) == 2 and each["least"] > 0 for each in found["timings"])
    small, large = (each["nodes"] for each in found["timings"] if each["part"] == "both")
    assert large > small


# the tool


def test_every_subcommand_can_be_run():
    modules = {path.stem for path in (ROOT / "tools/benchmarks").glob("*.py") if "\ndef define_flags(" in path.read_text()}
    assert set(benchmark.SUBCOMMANDS) == modules
    assert all(f"  {name} " in benchmark.__doc__ for name in benchmark.SUBCOMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "a subcommand is missing; first comes one of: account"),
        (["nope"], "no subcommand 'nope'; first comes one of: account"),
        (["--repeats=2", "account"], "no subcommand '--repeats=2'; first comes one of: account"),
        (["account", "--repeats=0"], "flag --repeats=0: 0 is not a positive integer"),
        (["account", "stray"], "unexpected argument 'stray'; flags start with '--'"),
        (["account", "--depths=21"], "--depths=21: a CIFAR ResNet has 6 n + 2 layers, from 8: 20,56,110 say"),
    ],
)
def test_bad_input_is_one_line(arguments, expected):
    done = programs.start("tools/benchmark.py", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("benchmark.py: ")
    assert expected in done.stderr


def test_help_names_the_flags_of_the_subcommand():
    for arguments, flag in ((["--help"], "--repeats"), (["account", "--help"], "--depths")):
        done = programs.start("tools/benchmark.py", *arguments)
        assert flag in done.stdout
        assert "Measures what the project costs to run" in done.stdout


def test_results_are_printed_and_written(monkeypatch, tmp_path, capsys):
    path, plans = tmp_path / "found.json", []
    machine = {"cores": 2, "processor": "some", "load": 0.5, "system": "Linux"}
    record = {"timings": [], "date": "2020-01-02T03:04:05", "command": "c", "machine": machine, "versions": {}}
    values = flags.FlagValues()
    for name, value in (("repeats", 7), ("warmup", 2)):
        flags.DEFINE_integer(name, value, "", flag_values=values)
    flags.DEFINE_string("output", str(path), "", flag_values=values)
    flags.DEFINE_string("write", str(tmp_path / "page.md"), "", flag_values=values)
    flags.DEFINE_string("section", None, "", flag_values=values)
    values.mark_as_parsed()
    monkeypatch.setattr(benchmark, "FLAGS", values)
    monkeypatch.setattr(account, "run", lambda plan: plans.append(plan) or ("a table\n", record))
    benchmark.main("account")
    assert capsys.readouterr().out == "a table\n"
    assert json.loads(path.read_text()) == record
    assert "<!-- account: written by tools/benchmark.py -->" in (tmp_path / "page.md").read_text()
    assert plans == [measure.Plan(7, 2)]
    values.section = "account, large"
    benchmark.main("account")
    found = (tmp_path / "page.md").read_text()
    assert found.count("## account\n") == found.count("## account, large\n") == 1
