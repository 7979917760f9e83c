"""tools/benchmark.py score and optimize: what their tables conclude, what a start is, bad input; slow: from the command line."""

import json
import os
import pathlib

import programs
import pytest

from tools import cli
from tools.benchmarks import infer, measure, optimize, score

ROOT = pathlib.Path(cli.__file__).parents[1]
MICROBOTNET = ROOT / "zoo" / "microbotnet_x032_cifar10"
CASE = infer.Case("net", "folder", macs=1_000_000, sample=None, sample_of="test images of cifar10")


def timing(name, *seconds):
    return measure.Timing(name, seconds, {})


def test_scoring_is_held_against_the_network_round_by_round():
    timings = [timing("scoring", 2.2, 4.0, 3.0), timing("network", 2.0, 5.0, 2.5), timing("start", 1.5, 1.0, 3.0)]
    lines = score.table(CASE, timings, score.Setting("folder", None, 250, 2)).splitlines()
    assert lines[0] == "net, batches of 250, threads: 2"
    assert lines[1].split()[-5:] == ["3.000", "s", "(2.200", "to", "4.000)"]
    assert lines[3].split()[-5:] == ["1.500", "s", "(1.000", "to", "3.000)"]
    assert lines[4] == "scoring over network: 1.100 (0.800 to 1.200); 1.15 is allowed"
    assert max(map(len, lines)) <= 80


def test_a_start_that_fails_is_told(tmp_path):
    with pytest.raises(cli.UsageError, match=r"^standalone_inference: --load_folder: 'nowhere' is no folder"):
        score.start("nowhere", tmp_path / "picture.png")


def test_speed_is_of_the_original_round_by_round():
    pair = optimize.Pair("LiteRT", 256, timing("original", 0.010, 0.030, 0.020), timing("optimised", 0.008, 0.020, 0.025))
    assert pair.speed == measure.Spread(pytest.approx(1.25), pytest.approx(0.8), pytest.approx(1.5))
    text = optimize.table(CASE, (2_000_000.0, 1_500_000.0), [pair], {"OpenVINO": "not installed"})
    lines = text.splitlines()
    assert lines[:2] == ["net", "2,000,000 operations -> 1,500,000 by micronet-baseline-bn"]
    assert lines[4].split() == ["LiteRT", "256", "20.000", "20.000", "1.25", "0.80", "1.50"]
    assert lines[5] == "OpenVINO was left out: not installed"
    assert max(map(len, lines)) <= 80
    said = "LiteRT runs 12 operations for the original, 10 for the optimised"
    assert optimize.table(CASE, (2.0, 1.0), [pair], {}, said).splitlines()[5:] == [said]


def test_starts_are_pooled():
    first, second = (
        optimize.Pair("LiteRT", 1, timing("original", *seconds), timing("optimised", *(s / 2 for s in seconds)))
        for seconds in ((1.0, 2.0), (8.0, 4.0))
    )
    other = optimize.Pair("OpenVINO", 1, timing("original", 1.0, 1.0), timing("optimised", 1.0, 1.0))
    (found,) = optimize.pooled([[first, other], [second]])
    assert (found.engine, found.batch) == ("LiteRT", 1)
    assert (found.original.seconds, found.optimised.seconds) == ((1.0, 2.0, 8.0, 4.0), (0.5, 1.0, 4.0, 2.0))
    assert found.speed == measure.Spread(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["score", "--threads=100000"], "--threads=100000: this process may use"),
        (["optimize", "--threads=100000"], "--threads=100000: this process may use"),
        (["optimize", "--batch_sizes=0"], "--batch_sizes=0: '0' is no whole number from 1 or more"),
        (["score", "--load_folder=nowhere"], "nowhere is no SavedModel"),
    ],
)
def test_bad_input_is_one_line(arguments, expected):
    done = programs.start("tools/benchmark.py", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert expected in done.stderr


@pytest.mark.slow
def test_optimize_from_the_command_line(tmp_path):
    arguments = ["--network=frenzy_small", "--batch_sizes=1", "--engine=TensorFlow", "--seconds=0", "--threads=1"]
    done = programs.start("tools/benchmark.py", "optimize", *arguments, "--repeats=2", f"--output={tmp_path / 'found.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())["timings"]
    assert [each["name"] for each in found] == ["TensorFlow, original", "TensorFlow, optimised"]
    assert all(len(each["seconds"]) == 2 and each["least"] > 0 for each in found)
    before, after = (
        int(word.replace(",", "")) for word in done.stdout.split() if word.replace(",", "").isdigit() and "," in word
    )
    assert after < before
    assert "\nLiteRT runs " in done.stdout


@pytest.mark.slow
@pytest.mark.cifar
@pytest.mark.skipif(not os.environ.get("FRENZY_DATA"), reason="FRENZY_DATA names no folder with the real data")
def test_score_from_the_command_line(tmp_path):
    arguments = [f"--load_folder={MICROBOTNET}", "--repeats=1", "--warmup=0", f"--output={tmp_path / 'found.json'}"]
    done = programs.start("tools/benchmark.py", "score", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())["timings"]
    assert [each["name"] for each in found] == ["scoring", "network", "start"]
    assert "scoring over network: " in done.stdout
