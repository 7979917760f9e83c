"""The search's supernets against what is cut out of them: logits and counts, for random decisions over every kind of layer."""

import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from single_path_case import any_decisions, small

from frenzy import export, models
from frenzy.compress import CompressError
from frenzy.compress.single_path import (
    FRACTIONS,
    Decision,
    choices,
    cost,
    extract,
    network_of,
    operations,
    read_rows,
    score,
    storage,
    supernet,
)
from frenzy.compress.single_path.decisions import text
from frenzy.compress.single_path.supernet import choice_of
from frenzy.layers.activations import HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.indicators import Indicators, widths_of
from frenzy.layers.live import MaskedReLU
from frenzy.layers.subsample import Subsample
from frenzy.models import frenzy, mobilenet, resnet, wide_resnet

L = keras.layers
SUPERNETS = importlib.import_module("frenzy.compress.single_path.supernet")  # the package names its function alike


def every_kind(learned: bool = True):
    """All kinds of layers that the search follows, with biases, odd kernels and strides."""

    def conv(x, width, kernel, name, stride=1, **kwargs):
        return L.Conv2D(width, kernel, stride, "same", name=name, **kwargs)(x)

    def norm(x, name):
        return L.BatchNormalization(center=learned, scale=learned, name=name)(x)

    x = inputs = keras.Input((9, 12, 3), name="images")
    x = norm(x, "input_bn")  # folds into a 1x1 stem, and into no larger one
    x = L.ReLU(6.0, name="stem_relu")(norm(conv(x, 8, (3, 5), "stem"), "stem_bn"))
    x = L.MaxPooling2D(2, padding="same", name="max_pool")(x)
    y = L.ReLU(name="a_relu")(conv(x, 10, 3, "a", 2, use_bias=True))
    y = L.DepthwiseConv2D(3, 1, "same", name="b", use_bias=True)(y)
    y = HardSwish(name="b_act")(norm(y, "b_bn"))
    y = conv(y, 8, 1, "c", use_bias=False)
    y = L.Dropout(0.1, name="drop")(norm(y, "c_bn"))
    y = ZeroPadChannels(4, name="y_pad")(y)
    shortcut = ZeroPadChannels(4, name="x_pad")(Subsample(2, name="sub")(x))
    x = norm(L.Add(name="sum")([y, shortcut]), "sum_bn")
    x = L.ZeroPadding2D(1, name="d_space")(L.ReLU(name="sum_relu")(x))
    x = L.Conv2D(6, 3, 2, "valid", name="d", use_bias=False)(x)
    x = L.Concatenate(name="joined")([L.AveragePooling2D(3, 1, "same", name="pool")(x), conv(x, 5, (5, 1), "e")])
    x = conv(norm(x, "joined_bn"), 6, 3, "f")
    x = norm(x, "f_bn")  # folds into a conv with a bias
    x = L.Dense(7, name="g")(L.Flatten(name="flat")(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(x), name="every_kind")


NETWORKS = {
    "every kind": every_kind,
    "every kind, nothing learned in BN": lambda: every_kind(False),
    "frenzy": lambda: frenzy.build(frenzy.unpruned_rows((10, 20), 2), 10, (8, 8, 3)),
    "frenzy, symmetric padding": lambda: frenzy.build(frenzy.unpruned_rows((10, 20), 1), 10, (8, 8, 3), symmetric_padding=True),
    "wide_resnet": lambda: wide_resnet.build(wide_resnet.Rows(8, (12, 16), 2), 10, (12, 12, 3)),
    "mcdonnell": lambda: wide_resnet.build_mcdonnell(wide_resnet.Rows(8, (8, 16), 1), 10, (12, 12, 3)),
    "resnet": lambda: resnet.build(resnet.Rows((8, 16), 1, "zeros"), 10, (12, 12, 3)),
    "mobilenet_v1": lambda: mobilenet.build_separable(mobilenet.V1[:3], 0.25, 10, (16, 16, 3)),
    "mobilenet_v2": lambda: mobilenet.build_inverted(
        dataclasses.replace(mobilenet.V2, blocks=mobilenet.V2.blocks[:3]), 0.25, 10, (16, 16, 3), delay=1
    ),
}
QUICK = ("every kind", "frenzy, symmetric padding", "resnet", "mobilenet_v1")


@pytest.fixture(autouse=True)
def _seeded():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def images(model, batch=2):
    return tf.constant(np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])), tf.float32)


def shake(model, random):
    """Every weight but thresholds anything, variances and scales around 1: statistics that no training left neat."""
    for variable in model.weights:
        if "threshold" in variable.name or "drop_rate" in variable.name:
            continue
        value = random.normal(size=variable.shape)
        positive = any(word in variable.name for word in ("variance", "gamma"))
        variable.assign(1 + 0.3 * np.tanh(value) if positive else 0.5 * value)


def check_decisions_of(name, trials, first):
    """Logits to 1e-5 of their size; storage and operations in both conventions, exactly; from indicators as from rows."""
    net = supernet(NETWORKS[name]())
    x = images(net.model)
    for trial in range(trials):
        random = np.random.default_rng(first + trial)
        shake(net.model, random)
        decisions = any_decisions(net, random)
        net.impose(decisions)
        assert net.decisions() == decisions
        small = extract(net.plain, decisions, net.model)
        masked, logits = net.model(x, training=False).numpy(), small(x, training=False).numpy()
        np.testing.assert_allclose(masked, logits, atol=1e-5 * max(1, np.abs(logits).max()))
        for convention, report in export.account_model(small, ["frenzy", "micronet"]).items():
            for chosen in (choices(net.network, decisions), net.choices()):
                found = cost.cost(net.network, chosen, convention)
                counted = (report.totals.storage_bits, report.totals.operations)
                assert (float(found.storage_bits), float(found.operations)) == counted, convention
                assert float(cost.score(found, convention)) == pytest.approx(float(report.score.total), rel=1e-12)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_masked_equals_extracted_equals_counted(name):
    check_decisions_of(name, trials=1, first=list(NETWORKS).index(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_many_decisions(name):
    check_decisions_of(name, trials=6, first=100)


# the supernet


def test_it_begins_as_the_whole_network():
    """Padded symmetrically the supernet gives the network's logits; nothing is cut, and its own weights are thresholds alone."""
    plain = small()
    net = supernet(plain)
    x = images(plain)
    np.testing.assert_allclose(net.model(x, training=False), plain(x, training=False), atol=1e-5)
    np.testing.assert_allclose(net.model(x, training=True), plain(x, training=True), atol=1e-4)
    assert net.decisions() == net.whole()
    assert set(net.layers) == {"stem", *(f"block{number}_{part}" for number in (1, 2) for part in ("prune", "conv1", "conv2"))}
    own = {v.name for v in net.model.weights} - {v.name for v in plain.weights}
    assert all("threshold" in name or "drop_rate" in name for name in own)
    assert net.smallest()["block2_conv1"] == Decision((1, 1), 2)


def test_the_published_decisions_cost_what_was_published():
    """Frenzy's rows, as decisions on the network before the search: 8,839,600 bytes and 828,928,000 operations; score 0.2001."""
    network = network_of(models.build("frenzy_unpruned", symmetric_padding=True))
    decisions = {"stem": Decision(frenzy.FINAL.stem_kernel, frenzy.FINAL.stem)}
    for number, row in enumerate(frenzy.FINAL.blocks, 1):
        decisions[f"block{number}_prune"] = Decision((1, 1), row.prune)
        decisions[f"block{number}_conv1"] = Decision(row.conv1, row.a)
        decisions[f"block{number}_conv2"] = Decision(row.conv2, row.b)
    found = cost.cost(network, choices(network, decisions), "frenzy")
    assert (found.storage_bits, found.operations) == (8 * 8_839_600, 828_928_000)
    assert cost.score(found, "frenzy") == pytest.approx(4_419_800 / 36.5e6 + 828_928_000 / 10.49e9, rel=1e-12)
    for name, decision in decisions.items():
        assert decision.width in widths_of(network.ops[name].channels, FRACTIONS), name


def test_the_slope_of_the_cost_is_what_switching_changes():
    """Linear in each indicator: operations and storage change by the derivative when an option is switched."""
    net = supernet(small())
    random = np.random.default_rng(0)
    shake(net.model, random)
    net.impose(any_decisions(net, random))
    names = list(net.layers)
    found = {name: Indicators(*(tf.cast(each, tf.float64) for each in net.layers[name].indicators())) for name in names}
    for objective in (operations("micronet"), storage("frenzy"), score("micronet")):

        def value(indicators, objective=objective):
            return objective.measure(net.network, {name: choice_of(net.layers[name], indicators[name]) for name in names})

        flat = [each for name in names for each in found[name] if each.shape[0]]
        with tf.GradientTape() as tape:
            tape.watch(flat)
            now = value(found)
        slopes = iter(tape.gradient(now, flat))
        for name in names:
            for field, each in zip(Indicators._fields, found[name], strict=True):
                if not each.shape[0]:
                    continue
                slope = next(slopes)
                for at in range(each.shape[0]):
                    change = 1 - 2 * each[at]
                    moved = each + change * tf.one_hot(at, each.shape[0], dtype=tf.float64)
                    other = value({**found, name: found[name]._replace(**{field: moved})})
                    assert float(other - now) == pytest.approx(float(slope[at] * change), rel=1e-9, abs=1e-12), (name, field)


def test_what_is_off_can_come_back():
    """A supernet cut down to its smallest, against the answers of the whole: the loss alone switches options on again."""
    keras.utils.set_random_seed(1)
    net = supernet(small())
    x = tf.constant(np.random.default_rng(0).normal(size=(32, 8, 8, 3)), tf.float32)
    wanted = net.model(x, training=True)
    net.impose(net.smallest())
    variables = [each for layer in net.layers.values() for each in layer.thresholds if each is not None]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net.model(x, training=True) - wanted))
        return loss, tape.gradient(loss, variables)

    first, found = gradients()
    for variable, gradient in zip(variables, found, strict=True):
        assert gradient.numpy()[0] != 0, f"{variable.name} is trapped"
    optimizer = keras.optimizers.legacy.SGD(0.02)
    start = sum(decision.width for decision in net.smallest().values())
    for _ in range(20):
        last, found = gradients()
        optimizer.apply_gradients(zip([tf.clip_by_norm(each, 1.0) for each in found], variables, strict=True))
    assert sum(decision.width for decision in net.decisions().values()) > start
    assert last < first


MASKED = {"every kind": {"a_relu"}, "resnet": set()}  # ReLUs that no batch normalisation stands before


@pytest.mark.parametrize("name", MASKED)
def test_gradients_are_those_of_relus_that_know_what_is_live(name, monkeypatch):
    """Behind a batch normalisation, through sums, pools and padded channels, plain ReLUs do what masked ones would."""
    found = {}
    for lifted in (True, False):
        if not lifted:
            whole = SUPERNETS._Map
            monkeypatch.setattr(SUPERNETS, "_Map", lambda x, live, static, lifted=False, of=whole: of(x, live, static))
        net = supernet(NETWORKS[name]())
        masked = {layer.name for layer in net.model.layers if isinstance(layer, MaskedReLU)}
        assert masked == MASKED[name] if lifted else masked > MASKED[name]
        random = np.random.default_rng(3)
        shake(net.model, random)
        net.impose(any_decisions(net, random))
        variables = [each for layer in net.layers.values() for each in layer.thresholds if each is not None]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(net.model(images(net.model), training=False)))
        found[lifted] = [each.numpy() for each in tape.gradient(loss, variables)]
    assert any((gradient != 0).any() for gradient in found[True])
    for ours, theirs in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("head$", "frenzy: marked layers that cannot be searched: 'head': its channels are the network's ans"),
        ("stem|relu$", "'block1_prune_relu': it is a ReLU, no convolution"),
        ("(", r"marked '\(' is no regular expression"),
        ("nothing", "frenzy: nothing to search; mark convolutions by a pattern that their names match"),
    ],
)
def test_marked_layers_that_cannot_be_searched(marked, message):
    with pytest.raises(CompressError, match=message):
        supernet(small(), marked)


def one_conv(make):
    x = inputs = keras.Input((8, 8, 4))
    return keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(4, 1, name="last")(make(x))))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (L.Conv2D(8, 3, activation="relu", name="it"), "'it': it has an activation of its own; give that a layer of its own"),
        (L.Conv2D(8, 3, groups=2, name="it"), "'it': it has 2 groups"),
        (
            L.Conv2D(8, 3, dilation_rate=2, name="it"),
            "'it': its dilation, its data format or its strides are none that the search",
        ),
        (L.DepthwiseConv2D(3, depth_multiplier=2, name="it"), "'it': it makes 2 channels of one"),
        (
            L.DepthwiseConv2D(3, name="it"),
            "'it': it follows its producer's channels, and it pads nothing, so a smaller kernel would",
        ),
        (L.DepthwiseConv2D(2, padding="same", name="it"), "'it': it follows .*, and its kernel of 2x2 has an even side"),
    ],
)
def test_reasons(make, reason):
    with pytest.raises(CompressError, match=reason):
        supernet(one_conv(make), "it")


def test_what_the_search_cannot_follow():
    with pytest.raises(CompressError, match="the search cannot follow 'swish', a Activation; it knows Add, AveragePooling2D"):
        supernet(one_conv(L.Activation("swish", name="swish")))
    conv = L.Conv2D(4, 3, padding="same", name="twice")
    with pytest.raises(CompressError, match="'twice' is called 2 times; once is needed"):
        supernet(one_conv(lambda x: conv(conv(x))))
    with pytest.raises(CompressError, match="a functional network of one input and one output is needed"):
        supernet(keras.Sequential([L.Conv2D(4, 3)]))


def test_a_kernel_that_pads_nothing_keeps_its_sides():
    net = supernet(one_conv(L.Conv2D(8, 3, name="it")))
    assert net.smallest() == {"it": Decision((3, 3), 1)}
    net.impose(net.smallest())
    x = images(net.model)
    np.testing.assert_allclose(net.model(x), extract(net.plain, net.smallest(), net.model)(x), atol=1e-5)


@pytest.mark.slow
def test_checkpoints_and_copies(tmp_path):
    """SavedModel, config and checkpoint of a supernet that was cut."""
    net = supernet(small())
    net.impose(any_decisions(net, np.random.default_rng(3)))
    x = images(net.model)
    wanted = net.model(x, training=False)
    copy = keras.models.clone_model(net.model)
    copy.set_weights(net.model.get_weights())
    np.testing.assert_allclose(copy(x, training=False), wanted, atol=1e-6)
    root = tf.Module()
    root.model = net.model
    root.run = tf.function(lambda x: net.model(x, training=False), input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    tf.saved_model.save(root, str(tmp_path / "saved"), signatures={})
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.run(x), wanted, atol=1e-5)


# rows


def test_rows_are_read_as_they_were_written(tmp_path):
    net = supernet(small())
    decisions = any_decisions(net, np.random.default_rng(5))
    path = tmp_path / "rows.json"
    path.write_text(text("frenzy_small", 10, (8, 8, 3), decisions, {"budget": {"at_most": 3}}))
    assert sum('"layer": ' in line for line in path.read_text().splitlines()) == len(decisions)  # a line each
    found = read_rows(path)
    assert (found.network, found.num_classes, found.input_shape, found.decisions) == ("frenzy_small", 10, (8, 8, 3), decisions)
    assert found.facts == {"budget": {"at_most": 3}}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": [{"layer": "a"}]}', '{"rows": []}'])
def test_no_rows_file(tmp_path, content):
    path = tmp_path / "rows.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CompressError, match=r"rows\.json is no rows file \(.*\); tools/search\.py writes such"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "decision", "message"),
    [
        ("nowhere", Decision((3, 3), 4), "frenzy has no layer 'nowhere'; the rows are of another network"),
        ("head", Decision((1, 1), 4), "'head' cannot be cut down: its channels are the network's answers"),
        ("stem", Decision((2, 3), 4), r"'stem': kernel \(2, 3\) does not fit into \(3, 3\); sides are odd, 1 or more"),
        ("stem", Decision((3, 5), 4), r"'stem': kernel \(3, 5\) does not fit into \(3, 3\)"),
        ("stem", Decision((3, 3), 11), "'stem': 11 channels; it must be 1 to 10"),
    ],
)
def test_rows_of_another_network(name, decision, message):
    with pytest.raises(CompressError, match=message):
        extract(small(), {name: decision})
