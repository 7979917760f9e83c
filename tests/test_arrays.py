"""Weights as named arrays, in and out, and weights that PyTorch wrote."""

import json
import pathlib

import numpy as np
import programs
import pytest
import tf_keras as keras

from frenzy import models
from frenzy.models import alexnet, irnet, microbotnet, resnet, wide_resnet
from frenzy.models.arrays import (
    ArraysError,
    from_torch,
    load_arrays,
    named_weights,
    ordered_layers,
    read_npz,
    save_arrays,
    units,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _fresh():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def small_resnet():
    return resnet.build(resnet.Rows((8, 16), 1, "conv"), 10, (16, 16, 3))


def small_alexnet():
    return alexnet.build(alexnet.Rows(alexnet.CIFAR.convs[:2], dense=(16,)), 10, (32, 32, 3))


def values(model):
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def assert_equal(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


# names, order, files


def test_names_and_order():
    bn = ("gamma", "beta", "moving_mean", "moving_variance")
    wanted = []
    for conv in ("group2_1_conv1", "group2_1_conv2", "group2_1_shortcut"):
        wanted += [f"{conv}/kernel", *(f"{conv}_bn/{weight}" for weight in bn)]
    assert list(named_weights(small_resnet()))[-17:] == [*wanted, "logits/kernel", "logits/bias"]


def test_order_is_depth_first_with_the_main_branch_in_front():
    names = [layer.name for layer in ordered_layers(small_resnet())]
    block = [name for name in names if name.startswith("group2_1")]
    assert block == [
        "group2_1_conv1_space", "group2_1_conv1", "group2_1_conv1_bn", "group2_1_conv1_relu", "group2_1_conv2",
        "group2_1_conv2_bn", "group2_1_shortcut", "group2_1_shortcut_bn", "group2_1_add", "group2_1_relu",
    ]  # fmt: skip


def test_every_weight_has_a_name():
    model = irnet.build(irnet.of_kind("ABC", (irnet.Row(8),) * 3), 10, (8, 8, 3), 8, 16)
    assert {id(v) for v in named_weights(model).values()} == {id(v) for v in model.weights}
    assert "row3_1_se/reduce_kernel" in named_weights(model)
    assert "row3_1_routing/bias" in named_weights(model)


def test_round_trip_through_a_file(tmp_path):
    model, other = small_resnet(), small_resnet()
    for variable in model.weights:
        variable.assign_add(np.random.default_rng(0).uniform(0, 1, variable.shape))
    save_arrays(model, tmp_path / "weights.npz")
    load_arrays(other, tmp_path / "weights.npz")
    assert_equal(values(other), values(model))
    assert_equal(read_npz(tmp_path / "weights.npz"), values(model))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_load_takes_other_float_types():
    model = small_resnet()
    load_arrays(model, {name: value.astype(np.float16) for name, value in values(model).items()})
    assert model.weights[0].dtype == "float32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("stem/kernel"), r"not those of resnet: 1 missing \(stem/kernel\), 0 unknown"),
        (lambda a: a.update(more=np.zeros(3)), r"0 missing, 1 unknown \(more\)"),
        (lambda a: a.clear(), r"missing \(stem/kernel, stem_bn/gamma, stem_bn/beta, ...\)"),
        (lambda a: a.update({"logits/bias": np.zeros(9)}), r"'logits/bias' is \(9,\); the network's is \(10,\)"),
        (
            lambda a: a.update({"logits/bias": np.full(10, np.nan)}),
            "'logits/bias' holds float64 with values that are no finite numbers",
        ),
        (lambda a: a.update({"logits/bias": np.array(["a"] * 10)}), "'logits/bias' holds <U1"),
    ],
)
def test_load_refuses_and_changes_nothing(change, message):
    model = small_resnet()
    before = values(model)
    given = {name: value + 1 for name, value in before.items()}
    change(given)
    with pytest.raises(ArraysError, match=message):
        load_arrays(model, given)
    assert_equal(values(model), before)


def test_read_refuses(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    for name, message in {
        "absent.npz": "No such file",
        "text.npz": "cannot be read as .npz",
        "one.npy": "is one array; a .npz file of named ones is needed",
        "objects.npz": "cannot be read as .npz",
    }.items():
        with pytest.raises(ArraysError, match=message):
            read_npz(tmp_path / name)


# PyTorch


def torch_leaves(unit, weights):
    """A unit's weights as PyTorch holds them: the converter's inverse, written apart from it."""
    ours = {role: weights[name] for role, name in unit.weights.items()}
    if unit.kind == "batch_norm":
        named = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        return {leaf: ours[role] for leaf, role in named.items() if role in ours} | {"num_batches_tracked": np.array(7)}
    kernel = ours["kernel"]
    axes = {"conv": "hwio->oihw", "depthwise": "hwcm->cmhw", "dense": "io->oi"}[unit.kind]
    leaves = {"weight": np.einsum(axes, kernel)}
    if unit.flattened:
        h, w, c = unit.flattened
        leaves["weight"] = np.einsum("hwco->ochw", kernel.reshape(h, w, c, -1)).reshape(kernel.shape[::-1])
    return leaves | ({"bias": ours["bias"]} if "bias" in ours else {})


def torch_state(model, prefix=""):
    weights = values(model)
    return {
        f"{prefix}features.{i}.{leaf}": value
        for i, unit in enumerate(units(model))
        for leaf, value in torch_leaves(unit, weights).items()
    }


FAMILIES = {
    "resnet": small_resnet,
    "alexnet": small_alexnet,
    "microbotnet": lambda: microbotnet.build(0.25),
    "mcdonnell": lambda: wide_resnet.build_mcdonnell(wide_resnet.Rows(8, (8, 16), 1), 10, (16, 16, 3)),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("family", FAMILIES)
def test_state_of_pytorch_comes_back(family, prefix):
    model = FAMILIES[family]()
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.name)).uniform(0.5, 1.5, variable.shape))
    wanted = values(model)
    assert_equal(from_torch(model, torch_state(model, prefix)), wanted)


def test_state_by_names():
    model = small_resnet()
    state = torch_state(model)
    names = {unit.name: f"features.{i}" for i, unit in enumerate(units(model))}
    shuffled = dict(reversed(state.items()))
    assert_equal(from_torch(model, shuffled, names), values(model))
    with pytest.raises(ArraysError, match="'stem' takes module 'nowhere', which the state does not have"):
        from_torch(model, state, {**names, "stem": "nowhere"})


def test_dense_behind_flatten_reads_channels_first():
    """PyTorch flattens (c, h, w); the same dense layer on the same picture gives the same numbers."""
    model = small_alexnet()
    state = torch_state(model)
    load_arrays(model, from_torch(model, state))
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    picture = keras.Model(model.input, model.get_layer("features").input)(x).numpy()
    assert picture.shape[1:3] != (1, 1)
    first = state["features.2.weight"] @ picture.transpose(0, 3, 1, 2).reshape(2, -1).T + state["features.2.bias"][:, None]
    np.testing.assert_allclose(keras.Model(model.input, model.get_layer("dense1").output)(x), first.T, rtol=1e-4, atol=1e-4)


def test_dense_written_as_a_conv():
    """torchvision's squeeze-and-excite holds 1x1 convs."""
    model = small_resnet()
    state = torch_state(model)
    last = list(state)[-2]
    state[last] = state[last][:, :, None, None]
    assert_equal(from_torch(model, state), values(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.0.weight"), "the state has 12 modules with weights, resnet 13; by order they must be equally many"),
        (lambda s: s.update({"features.0.weight": np.zeros((8, 3, 5, 5))}), r"'stem/kernel' is \(3, 3, 3, 8\); 'features.0.weight', "),
        (lambda s: s.update({"features.0.bias": np.zeros(8)}), "'stem' is a conv of weight; module 'features.0' has bias, weight"),
        (lambda s: s.pop("features.1.running_mean"), "'stem_bn' is a batch_norm of bias, running_mean, running_var, weight; module"),
    ],
)  # fmt: skip
def test_state_that_does_not_fit(change, message):
    model = small_resnet()
    state = torch_state(model)
    change(state)
    with pytest.raises(ArraysError, match=message):
        from_torch(model, state)


def test_conditional_convs_have_no_torch_layout():
    model = irnet.build(irnet.of_kind("C", (irnet.Row(8),)), 10, (8, 8, 3), 8, 16)
    with pytest.raises(
        ArraysError, match="'row1_1_expand/kernel' of CondConv2D has no PyTorch layout here; load it by load_arrays"
    ):
        units(model)


# MicroBotNet x0.32 as the notes' code computes it


def notes_modules():
    """(name, kind) of every module with weights, in the order of the notes' printout of x0.32."""
    yield from (("features.0.0", "conv"), ("features.0.1", "bn"))
    for block in range(1, 11):
        conv, residual = f"features.{block}.conv", block not in (1, 2, 6)
        se = () if block == 1 else ((f"{conv}.5.fc.0", "dense"), (f"{conv}.5.fc.2", "dense"))
        stages = ((f"{conv}.{i}", "bn" if i % 3 == 1 else "conv") for i in (0, 1, 3, 4))
        last = f"{conv}.8.lastBN" if residual else f"{conv}.8"
        yield from (*stages, *se, (f"{conv}.7", "conv"), (last, "bn"))
    yield from (("features.11.0", "conv"), ("features.11.1", "bn"), ("features.13", "conv"), ("classifier.1", "dense"))


def drawn_state(model):
    """Weights drawn in the state_dict's order: kernels He-normal, BN away from its start."""
    random, weights, state = np.random.default_rng(0), values(model), {}
    for unit, (module, kind) in zip(units(model), notes_modules(), strict=True):
        assert kind == {"batch_norm": "bn", "depthwise": "conv"}.get(unit.kind, unit.kind)
        leaves = torch_leaves(unit, weights)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if leaf not in leaves:
                continue
            shape = leaves[leaf].shape
            if len(shape) > 1:
                value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
            elif leaf in ("weight", "running_var"):
                value = random.uniform(0.5, 2 if leaf == "running_var" else 1.5, shape)
            else:
                value = random.normal(0, 0.3, shape)
            state[f"{module}.{leaf}"] = value
    return state


def test_logits_of_the_notes_code():
    """FdMobileNetV3Imp2(mode="small", width_multiplier=0.32) in PyTorch 2.13 with these weights gave these logits."""
    model = models.build("microbotnet_x0.32")
    load_arrays(model, from_torch(model, drawn_state(model)))
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    wanted = [
        [2.356465, -0.922105, 1.40535, 0.803759, 3.312656, 1.189173, 0.783963, -0.622744, -1.55946, 3.865096],
        [2.446374, -0.777174, 1.542161, 1.070737, 3.280617, 1.339192, 0.61839, -1.021732, -1.674791, 4.239224],
    ]
    np.testing.assert_allclose(model(x), wanted, atol=2e-5)


# tools


def run(tool, *flags):
    return programs.start(f"tools/{tool}.py", *flags)


def test_import_weights_writes_what_loads(tmp_path):
    model = models.build("resnet_20", 7)
    np.savez(tmp_path / "torch.npz", **torch_state(model))
    names = {unit.name: f"features.{i}" for i, unit in enumerate(units(model))}
    (tmp_path / "names.json").write_text(json.dumps(names))
    done = run(
        "import_weights", "--network=resnet_20", "--num_classes=7", f"--arrays={tmp_path}/torch.npz",
        f"--names={tmp_path}/names.json", f"--output={tmp_path}/ours.npz",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "97 arrays, 270,903 values of resnet_20" in done.stdout
    assert_equal(read_npz(tmp_path / "ours.npz"), values(model))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network=resnet_20", "--output=x.npz"], "import_weights.py: --arrays is needed"),
        (["--network=resnet_20", "--arrays=absent.npz", "--output=x.npz"], "absent.npz cannot be read as .npz"),
        (["--network=resnet_19", "--arrays={npz}", "--output=x.npz"], "no network 'resnet_19'; known: alexnet, "),
        (["--network=resnet_20", "--arrays={npz}", "--output=x.npz"], "the state has 1 modules with weights, resnet_20 "),
        (["--network=resnet_20", "--arrays={npz}", "--output=x.npz", "--names=absent.json"], "--names=absent.json cannot be read"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_import_weights_errors_are_one_line(flags, message, tmp_path):
    np.savez(tmp_path / "torch.npz", **{"a.weight": np.zeros(3)})
    done = run("import_weights", *(flag.format(npz=tmp_path / "torch.npz") for flag in flags))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_zoo_lists():
    done = run("zoo", "--name=microbotnet_x0.32")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:5] == ["microbotnet_x0.32", "236,658", "782,368", "32x32x3", "10"]
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.slow
def test_zoo_refuses_unknown_names():
    done = run("zoo", "--name=resnet_19")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--name=resnet_19: no network of that name; known: frenzy, " in done.stderr
