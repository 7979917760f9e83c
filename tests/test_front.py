"""tools/front.py: sweeps of several seeds in one table and one picture, and what does not go together."""

import json

import programs
import pytest

from tools import front

RECIPE = {
    "network": "frenzy_small", "dataset": "cifar10", "epochs": 15, "batch_size": 128, "peak_lr": 0.1, "schedule": "one_cycle",
    "optimizer": "sgd", "augmentation": "crop_flip", "hold_out": 0,
}  # fmt: skip


def start(*arguments, cwd):
    return programs.start("tools/front.py", *arguments, cwd=cwd)


def sweep(folder, seed, top1, budget="operations", **recipe):
    """top1: {(kind, share): accuracy}."""
    for (kind, share), accuracy in top1.items():
        card = {
            "counts": {"micronet": {"score": share / 100, "operations": 1e6 * share + seed, "storage_bytes": 1000.0}},
            "accuracy": {"top1": accuracy, "n": 10_000},
            "training": {
                "recipe": {**RECIPE, "seed": seed, **recipe}, "command": f"search {seed}", "device": "a CPU", "seconds": 90.0,
            },
        }  # fmt: skip
        path = folder / front.PLACES[kind].format(f"{share:g}") / "assets.extra" / "model_card.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(card))
        if kind == "search":
            (folder / f"search_{share:g}" / "run.json").write_text(json.dumps({"budget": [budget, 1e6 * share]}))
    return folder


@pytest.fixture
def two(tmp_path):
    sweep(tmp_path / "a", 0, {("search", 0.5): 0.80, ("uniform", 0.5): 0.70, ("search", 0.25): 0.60, ("uniform", 0.25): 0.5})
    sweep(tmp_path / "b", 1, {("search", 0.5): 0.82, ("uniform", 0.5): 0.71})
    return tmp_path


def test_means_and_spreads_over_the_seeds(two):
    (two / "R.md").write_text(f"above\n{front.BEGIN}\nold\n{front.END}\nbelow\n")
    done = start("--sweep_dir=a", "--sweep_dir=b", "--output=front.png", "--write=R.md", cwd=two)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2:6] == [
        "| 0.25 of the operations | found by search | 60.00% | 60.00% | 1 | 250,000 | 1,000 | 0.00250 |",
        "| 0.25 of the operations | narrower alike | 50.00% | 50.00% | 1 | 250,000 | 1,000 | 0.00250 |",
        "| 0.5 of the operations | found by search | 81.00% | 80.00% to 82.00% | 2 | 500,000 to 500,001 | 1,000 | 0.00500 |",
        "| 0.5 of the operations | narrower alike | 70.50% | 70.00% to 71.00% | 2 | 500,000 to 500,001 | 1,000 | 0.00500 |",
    ]
    assert "- seed 1, n = 10,000 test images: 0.5 found by search 82.00%; 0.5 narrower alike 71.00%" in lines
    assert [line.split(", ")[0] for line in lines[-2:]] == ["- `search 0`", "- `search 1`"]
    assert "6 minutes" in lines[-2]  # four networks of 90 s
    assert (two / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (two / "R.md").read_text() == f"above\n{front.BEGIN}\n\n{done.stdout}\n{front.END}\nbelow\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 0}, "--sweep_dir=c has seed 0, as a has; give another --seed there"),
        ({"epochs": 3}, "--sweep_dir=c has epochs 3, a 15; join runs of one recipe"),
        ({"budget": "score"}, "--sweep_dir=c is of score, a of operations; join those of one"),
    ],
)
def test_sweeps_that_differ_are_not_joined(two, changes, said):
    sweep(two / "c", **{"seed": 2, "top1": {("search", 0.5): 0.8}, **changes})
    done = start("--sweep_dir=a", "--sweep_dir=c", cwd=two)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "no --sweep_dir; give the folder of every sweep"),
        (("--sweep_dir=none",), "--sweep_dir=none: no network of a sweep is there; tools/search.py --sweep writes one"),
        (("--sweep_dir=a", "--convention=frenzy"), "a card has no 'frenzy'; name the one that was searched under"),
        (("--sweep_dir=a", "--write=none.md"), "none.md"),
    ],
)
def test_what_is_not_there(two, flags, said):
    done = start(*flags, cwd=two)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
