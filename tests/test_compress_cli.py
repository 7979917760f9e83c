"""tools/compress.py: bad input in one line, how it tunes, and a network from folder to folder."""

import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import programs
import pytest
import tf_keras as keras

from frenzy import export, models
from frenzy.compress import METHODS
from frenzy.training.recipe import Recipe
from tools import cli, compress, session

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINED = Recipe(
    network="frenzy_small", dataset="synthetic10", epochs=16, batch_size=500, peak_lr=0.1, mixup=0.2, image_size=16
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """frenzy_small with fresh weights, exported as if TRAINED had made it."""
    keras.utils.set_random_seed(0)
    model = models.build("frenzy_small", 10, (16, 16, 3))
    export.round_weights(model, "float16")
    folder = tmp_path_factory.mktemp("zoo") / "small"
    facts = {"dataset": "synthetic10", "training": {"recipe": dataclasses.asdict(TRAINED)}}
    pixels = export.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    export.export(model, folder, pixels, [f"class {i}" for i in range(10)], facts=facts)
    return folder


def start(*arguments, cwd):
    return programs.start("tools/compress.py", *arguments, cwd=cwd, FRENZY_DATA="nowhere")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--load_folder=x"], "Flag --method must have a value other than None"),
        (["--method=magic", "--load_folder=x"], "--method=magic: value should be one of <ttq|one_negative_one|hysteresis|"),
        (["--method=ttq", "--load_folder=nowhere"], "nowhere is no SavedModel: it holds no saved_model.pb"),
    ],
    ids=["no method", "unknown method", "no network"],
)
def test_bad_input_is_one_line(tmp_path, arguments, expected):
    done = start(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def flags(monkeypatch):
    """flags(name=value, ...): what compress.py sees, all else not given."""

    class Flags(dict):
        __getattr__ = dict.__getitem__

    def given(method="ttq", **values):
        names = [session.FLAG_NAMES.get(field.name, field.name) for field in dataclasses.fields(Recipe)]
        names += [*compress.OPTIONS, "tensors", "map_bits"]
        found = Flags({name: types.SimpleNamespace(value=values.get(name), present=int(name in values)) for name in names})
        found["recipe"] = types.SimpleNamespace(value="synthetic10", present=int("recipe" in values))
        found.load_folder, found.method = "folder", method
        proxy = types.SimpleNamespace(load_folder="folder", method=method, recipe="synthetic10", tensors=None, map_bits=None)
        for name, value in values.items():
            setattr(proxy, name, value)

        class Both:
            def __getattr__(self, name):
                return getattr(proxy, name)

            def __getitem__(self, name):
                return found[name]

        monkeypatch.setattr(compress, "FLAGS", Both())
        monkeypatch.setattr(session, "FLAGS", Both())

    return given


CARD = {"training": {"recipe": {**dataclasses.asdict(TRAINED), "no_field_of_today": 1}}}


def test_it_tunes_as_it_was_trained_but_shorter(flags):
    flags()
    recipe = compress.fine_tuning(CARD)
    assert recipe == dataclasses.replace(TRAINED, epochs=16 // 8, peak_lr=0.1 / 10, init_from="folder")


def test_flags_go_before_the_card(flags):
    flags(epochs=3, peak_lr=0.5)
    recipe = compress.fine_tuning(CARD)
    assert (recipe.epochs, recipe.peak_lr, recipe.mixup) == (3, 0.5, 0.2)


def test_a_recipe_goes_before_the_card(flags):
    flags(recipe="synthetic10", epochs=2)
    recipe = compress.fine_tuning({"training": {"recipe": {"network": "resnet_20", "dataset": "cifar10", "epochs": 1}}})
    assert (recipe.network, recipe.dataset, recipe.epochs, recipe.hold_out) == ("resnet_20", "cifar10", 2, 1000)
    assert (recipe.init_from, recipe.precision) == ("folder", "float32")


@pytest.mark.parametrize("card", [{}, {"training": {}}, {"training": {"recipe": {"network": "x"}}}, {"training": None}])
def test_a_card_without_a_recipe(flags, card):
    flags()
    with pytest.raises(cli.UsageError, match=r"the card of folder names no recipe .*; export the network by tools/export\.py"):
        compress.fine_tuning(card)


def test_the_methods_are_those_of_the_package():
    assert tuple(METHODS) == compress.METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_is_a_flag(method):
    assert set(METHODS[method].options) - {"steps"} <= set(compress.OPTIONS)


def test_options_reach_the_method(flags):
    flags("cluster", clusters=4, tensors="block9.*kernel$")
    wrapped, tensors = compress.wrapped_network(models.build("frenzy_small", 10), steps=10)
    assert [tensor.name for tensor in tensors] == ["block9_prune/kernel", "block9_conv1/kernel", "block9_conv2/kernel"]
    assert wrapped.get_layer("cluster_block9_conv1").number_of_clusters == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ttq", "int8", "prune_in_rounds"])
def test_from_folder_to_folder(exported, tmp_path, method):
    """Two epochs of 20 steps: what is exported is small where it is said to be, scores as reported, and --resume adds nothing."""
    arguments = [f"--method={method}", f"--load_folder={exported}", "--run_dir=run", "--output=out", "--epochs=1"]
    arguments += ["--sparsity=0.2"] if method == "prune_in_rounds" else []
    done = start(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "top-1    before not known, after " in done.stdout
    assert (tmp_path / "run" / "report.txt").read_text() in done.stdout
    card = json.loads((tmp_path / "out" / export.CARD).read_text())
    assert card["training"]["method"] == method
    weights = export.stored_weights(tmp_path / "out")
    kernel = weights["block9_conv1/kernel"]
    if method == "ttq":
        assert len(np.unique(kernel)) == 3
    if method == "prune_in_rounds":
        blocks = [w for name, w in weights.items() if name.startswith("block") and w.size > 1000 and name.endswith("kernel")]
        assert sum((w == 0).sum() for w in blocks) == round(0.2 * sum(w.size for w in blocks))
    if method == "int8":
        assert len(np.unique(kernel)) <= 255
        text = (tmp_path / "out" / "saved_model.pb").read_bytes()
        assert b"FakeQuantWithMinMaxVars" in text
    before = (tmp_path / "out" / "variables" / "variables.data-00000-of-00001").read_bytes()
    again = start(*arguments, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "variables" / "variables.data-00000-of-00001").read_bytes() == before
    refused = start(*arguments, cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "holds a run already; pass --resume to go on with it, or another --run_dir" in refused.stderr


@pytest.mark.slow
def test_a_run_continues_another(exported, tmp_path):
    """At next to no rate the weights behind the codes stay what the earlier run made of them."""
    arguments = ["--method=ttq", f"--load_folder={exported}", "--epochs=1"]
    done = start(*arguments, "--run_dir=first", "--peak_lr=0.05", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    more = [*arguments, "--continue_from=first", "--run_dir=more", "--peak_lr=1e-12"]
    done = start(*more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (export.stored_weights(tmp_path / run / "SavedModel") for run in ("first", "more"))
    np.testing.assert_array_equal(first["block9_conv1/kernel"], second["block9_conv1/kernel"])
    card = export.read_card(tmp_path / "more" / "SavedModel")
    continued = card["training"]["continued"]
    assert continued["command"].endswith("--run_dir=first --peak_lr=0.05")
    assert (continued["steps"], continued["recipe"]["peak_lr"], card["training"]["recipe"]["peak_lr"]) == (20, 0.05, 1e-12)
    refused = start(*more[1:], "--method=one_negative_one", "--run_dir=other", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert (
        "--continue_from: first is of method ttq, network frenzy_small, dataset synthetic10, hold_out 0, and" in refused.stderr
    )
    assert not (tmp_path / "other").exists()
    forgotten = start(*arguments, "--run_dir=more", "--peak_lr=1e-12", "--resume", cwd=tmp_path)
    assert (forgotten.returncode, forgotten.stderr.count("\n")) == (2, 1)
    assert "run.json: continued was {" in forgotten.stderr
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    record["recipe"]["epochs"] = 2
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    unfinished = start(*more, "--run_dir=third", cwd=tmp_path)
    assert (unfinished.returncode, unfinished.stderr.count("\n")) == (2, 1)
    assert "--continue_from: first did 20 of its 40 steps; finish it by --resume" in unfinished.stderr


@pytest.mark.parametrize(
    ("method", "content", "expected"),
    [
        ("ttq", None, "--continue_from: nothing/run.json cannot be read ("),
        ("ttq", "[1]", "--continue_from: nothing/run.json cannot be read ("),
        ("ttq", '{"method": "ttq"}', "name the --run_dir of an earlier run of tools/compress.py"),
        (
            "prune_in_rounds",
            None,
            "--continue_from: prune_in_rounds begins at a network without zeros; leave it out, or --resume",
        ),
    ],
)
def test_an_earlier_run_that_is_none(exported, tmp_path, method, content, expected):
    if content is not None:
        (tmp_path / "nothing").mkdir()
        (tmp_path / "nothing" / "run.json").write_text(content)
    done = start(f"--method={method}", f"--load_folder={exported}", "--continue_from=nothing", "--run_dir=run", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert expected in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_weights_than_the_network_has(exported, tmp_path):
    """A card that names a network which the weights do not fit."""
    copy = shutil.copytree(exported, tmp_path / "copy")
    card = json.loads((copy / export.CARD).read_text())
    card["training"]["recipe"]["network"] = "resnet_20"
    (copy / export.CARD).write_text(json.dumps(card))
    done = start("--method=ttq", f"--load_folder={copy}", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the arrays are of another network than resnet_20" in done.stderr


def test_a_card_tells_of_continued_runs_what_was_otherwise():
    recipe = {"network": "n", "epochs": 20, "peak_lr": 0.1}
    first = {"command": "a", "networks_sha256": {"teacher": "1"}, "recipe": {**recipe, "peak_lr": 0.2}}
    second = {"command": "b", "networks_sha256": {"teacher": "2"}, "recipe": recipe, "continued": first}
    training = {"recipe": recipe, "networks_sha256": {"teacher": "2"}, "continued": second}
    assert compress.told_once(training) == {
        "recipe": recipe,
        "networks_sha256": {"teacher": "2"},
        "continued": {
            "command": "b",
            "recipe": {"epochs": 20},
            "continued": {"command": "a", "networks_sha256": {"teacher": "1"}, "recipe": {"epochs": 20, "peak_lr": 0.2}},
        },
    }
    assert compress.told_once({"recipe": recipe}) == {"recipe": recipe}
