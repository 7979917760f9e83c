"""tools/benchmark.py compress: what its table concludes, and one run of it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from frenzy.compress import METHODS
from frenzy.training.recipe import Recipe
from tools import cli
from tools.benchmarks import compress, measure, train

ROOT = Path(cli.__file__).parents[1]
RECIPE = Recipe(network="frenzy_small", dataset="synthetic10", epochs=4, batch_size=16)
FACTS = {"recipe": "some", "network": "frenzy_small", "precision": "float32", "batch_size": 16, "steps": 10}
TIMINGS = [
    measure.Timing("plain", (2.0, 1.0, 8.0), FACTS),
    measure.Timing("ttq", (4.0, 1.25, 10.0), FACTS),
    measure.Timing("one_negative_one", (2.0, 1.0, 4.0), FACTS),
]


def test_throughput_is_a_share_of_the_plain_networks_round_by_round():
    found = compress.throughputs(TIMINGS)
    assert dataclasses.astuple(found["ttq"]) == (1.0 / 1.25, 2.0 / 4.0, 8.0 / 10.0)
    assert dataclasses.astuple(found["one_negative_one"]) == (1.0, 1.0, 2.0)


def test_table():
    lines = compress.table(train.Case("some", RECIPE), TIMINGS).splitlines()
    assert lines[0] == "frenzy_small, float32"
    assert lines[3].split() == ["plain", "200.0", "100.0", "800.0", "80"]
    assert lines[4].split() == ["ttq", "400.0", "125.0", "1000.0", "40", "0.80x"]
    assert max(map(len, lines)) <= 80


def test_methods_are_those_that_wrap_a_network_once():
    assert set(compress.METHODS) == set(METHODS) - {"prune_in_rounds"}


@pytest.mark.slow
def test_compress_from_the_command_line(tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "compress", "--recipe=synthetic10", "--batch_size=8"]
    command += ["--method=prune", "--seconds=0", "--repeats=2", "--threads=1", f"--output={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(path.read_text())
    assert [each["name"] for each in found["timings"]] == ["plain", "prune"]
    assert found["summary"][0]["throughput_of_plain"].keys() == {"prune"}
