"""SavedModel/ as it lies in the repository: its card, and its accuracy on the real test set."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from frenzy.accounting import accounts, read
from frenzy.export import CARD, variables_sha256

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "SavedModel"


@pytest.fixture(scope="module")
def card():
    return json.loads((FOLDER / CARD).read_text())


def test_the_card_says_what_lies_there(card):
    assert card["variables_sha256"] == variables_sha256(FOLDER)
    for name, report in accounts(read(FOLDER), card["counts"], card["task"]).items():
        assert card["counts"][name]["operations"] == report.totals.operations
        assert card["counts"][name]["storage_bytes"] == report.totals.storage_bytes
        assert report.unknown == ()
    assert card["accuracy"]["n"] == 10_000
    assert len(card["class_names"]) == 100


def test_variables_take_what_ms_claims_and_no_more_than_bookkeeping_besides():
    """16 bits a weight: all conv weights, those of dead channels too, and the vectors of BN; then the checkpoint's own index."""
    data = sum(path.stat().st_size for path in (FOLDER / "variables").iterdir())
    report = accounts(read(FOLDER), ["macs"])["macs"]
    norms = sum(2 * 2 * row.live_out for row in report.rows if row.op.startswith("FusedBatchNorm")) + 2 * 2 * 100
    assert 8_853_600 + norms <= data <= 8_853_600 + norms + 32_768


def test_readme_tells_the_cards_accuracy(card):
    assert f"**{100 * card['accuracy']['top1']:.2f} %**" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.cifar
@pytest.mark.skipif("FRENZY_DATA" not in os.environ, reason="the real CIFAR is not at hand: set FRENZY_DATA")
def test_accuracy_on_real_test_images(card):
    """Within four standard deviations of a share of 1,000; tools/results.py holds every network to its card on all 10,000."""
    command = [sys.executable, str(ROOT / "standalone_inference.py"), f"--load_folder={FOLDER}", "--json", "--limit=1000"]
    command += ["--runtime=tensorflow"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200).stdout)
    assert found["n"] == 1_000
    for name in ("top1", "top5"):
        share = card["accuracy"][name]
        assert found[name] == pytest.approx(share, abs=4 * (share * (1 - share) / 1_000) ** 0.5)
