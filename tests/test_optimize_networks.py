"""Graph passes on whole networks and through the tool, and what is refused."""

import json

import numpy as np
import programs
import pytest
import tensorflow as tf
import tf_keras as keras
from optimize_case import (
    RANDOM,
    conv_then_norm,
    norm,
    norm_weights,
    ops,
    outputs,
    same_numbers_in_any_order,
    save,
    totals,
    values,
)

from frenzy import export
from frenzy.accounting import accounts, read
from frenzy.models.frenzy import Block, Rows, build
from frenzy.optimize import OptimizeError, lines, norms, optimize, read_network

ROWS = Rows(
    stem_kernel=(3, 3),
    stem=4,
    blocks=(
        Block(width=4, prune=3, conv1=(3, 3), a=3, conv2=(1, 1), b=2),
        Block(width=8, prune=4, conv1=(3, 3), a=3, conv2=(1, 1), b=2, stride=2),  # 4 of 8 channels stay zero
        Block(width=8, prune=4, conv1=(1, 1), a=4, conv2=(3, 3), b=8),
    ),
)


@pytest.fixture(autouse=True)
def _same_numbers():
    same_numbers_in_any_order()


# a network of ours


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A network like Frenzy, exported, and optimised: (folder, output, result)."""
    keras.utils.set_random_seed(0)
    model = build(ROWS, num_classes=5, input_shape=(8, 8, 3))
    for variable in model.weights:
        if any(part in variable.name for part in ("moving", "gamma", "beta")):
            variable.assign(values(*variable.shape))
    export.round_weights(model, "float16")
    root = tmp_path_factory.mktemp("optimize")
    export.export(model, root / "was", export.Preprocessing((0.5,) * 3, (0.25,) * 3), [f"class {i}" for i in range(5)])
    return root / "was", root / "is", optimize(root / "was", root / "is")


def test_outputs_are_equal(residual):
    folder, output, result = residual
    images = RANDOM.normal(size=(7, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(output, images), outputs(folder, images), atol=1e-4)
    assert 0 < result.difference <= 1e-4


def test_classify_is_optimised_too(residual):
    folder, output, _ = residual
    images = tf.constant(RANDOM.integers(0, 256, (4, 8, 8, 3)), tf.uint8)
    before, after = (tf.saved_model.load(str(f)).signatures["classify"](images=images) for f in (folder, output))
    np.testing.assert_array_equal(after["classes"], before["classes"])
    np.testing.assert_array_equal(after["names"], before["names"])
    np.testing.assert_allclose(after["probabilities"], before["probabilities"], atol=1e-4)
    names = [
        name for name, _ in tf.train.list_variables(str(output / "variables" / "variables")) if name.endswith("VARIABLE_VALUE")
    ]
    assert len(names) == len(read(output).variables)  # both signatures read the same ones


def test_the_report_is_the_one_of_before(residual):
    _, _, result = residual
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])


def test_biases_are_what_the_submissions_rules_add(residual):
    """frenzy: BN is free, a bias an add an output and 16 bits a channel."""
    _, _, result = residual
    made = [row for row in result.after["frenzy"].rows if row.op == "BiasAdd"]
    before, after = result.before["frenzy"].totals, result.after["frenzy"].totals
    assert len(made) == 3 * 2 + 1  # prune and conv1 of each block, and the head
    assert after.adds - before.adds == sum(row.adds for row in made)
    assert after.parameters - before.parameters == sum(row.parameters for row in made) == (3 + 3) + (4 + 3) + (4 + 4) + 5
    assert after.multiplies == before.multiplies


def test_dead_channels_are_gone(residual):
    """Behind the second block 4 of 8 channels are zero: its pads shrink, the third block's first conv reads 4."""
    _, output, result = residual
    reports = result.before["micronet"], result.after["micronet"]
    shapes = {variable.name: variable.shape for variable in read(output).variables.values()}
    assert shapes["block3_prune/kernel"] == (1, 1, 4, 4)
    assert shapes["block3_prune_bn/moving_mean"] == (4,)
    widths = [sorted(row.output_shape[-1] for row in report.rows if row.op == "Pad") for report in reports]
    assert widths == [[4, 8, 8], [4, 4, 8]]  # of the last block the shortcut is padded now, of the second conv2 alone
    assert ops(output).count("FusedBatchNormV3") == 3 + 1  # before each block and the head
    assert "Cast" not in [node.op for node in read(output).nodes.values()]


def test_what_is_left_alone_has_a_reason(residual):
    reasons = dict(residual[2].steps[3].left)
    assert set(reasons) == {
        f"frenzy/{name}_bn/FusedBatchNormV3" for name in ("block1_prune", "block2_prune", "block3_prune", "head")
    }
    assert reasons["frenzy/head_bn/FusedBatchNormV3"].startswith("between AddV2 and Relu: no conv or dense layer")
    assert "(which others read as well)" in reasons["frenzy/block2_prune_bn/FusedBatchNormV3"]


def test_the_card_goes_along(residual):
    folder, output, result = residual
    was, card = (json.loads((f / export.CARD).read_text()) for f in (folder, output))
    assert card == json.loads(json.dumps(result.card))
    assert {key: card[key] for key in ("name", "class_names", "preprocessing")} == {
        key: was[key] for key in ("name", "class_names", "preprocessing")
    }
    assert card["counts"]["micronet"] == was["counts"]["micronet"]
    assert card["variables_sha256"] == export.variables_sha256(output) != was["variables_sha256"]
    assert [step["changed"] for step in card["optimized"]["passes"]] == [step.changed for step in result.steps]
    assert card["optimized"]["max_difference"] == result.difference


def test_the_lines_say_it_all(residual):
    text = "\n".join(lines(residual[2]))
    assert "    7  batch norms folded into convs and dense layers\n" in text
    assert "left alone: 2, between AddV2 (which others read as well) and Relu" in text
    assert "micronet: " in text


def test_an_optimised_network_stays_as_it_is(residual, tmp_path):
    _, output, result = residual
    again = optimize(output, tmp_path / "again")
    assert [step.changed for step in again.steps if "nothing" not in step.name] == [0, 0, 0, 0]
    assert totals(again.after["frenzy"]) == totals(result.after["frenzy"])


def test_16_bits_again(residual, tmp_path):
    folder, _, _ = residual
    result = optimize(folder, tmp_path / "half", "float16")
    assert {v.bits for v in read(tmp_path / "half").variables.values()} == {16}
    assert result.difference <= 1e-4 < result.rounding < 0.1
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])


# bad input, and what goes wrong


def small(folder):
    return save(folder, conv_then_norm, (6, 6, 3), {"kernel": values(3, 3, 3, 4, low=-1), **norm_weights("bn", 4)})


def test_other_outputs_are_refused(tmp_path, monkeypatch):
    folder = small(tmp_path / "was")
    monkeypatch.setattr(norms, "scale_outputs", lambda node, kernel, scale: kernel * scale * 1.01)
    with pytest.raises(
        OptimizeError, match=r"output 'logits' of 'serving_default' would differ by .*, more than .*; nothing is"
    ):
        optimize(folder, tmp_path / "is")
    assert [path.name for path in tmp_path.iterdir()] == ["was"]


def test_an_output_folder_of_somebody_else(tmp_path):
    (tmp_path / "is").mkdir()
    (tmp_path / "is" / "thesis.tex").write_text("precious")
    with pytest.raises(OptimizeError, match="is there and is no SavedModel; it is left alone"):
        optimize(small(tmp_path / "was"), tmp_path / "is")
    with pytest.raises(OptimizeError, match="was is the SavedModel that is read; name another folder by --output"):
        optimize(tmp_path / "was", tmp_path / "was")
    with pytest.raises(OptimizeError, match="weights of int8 cannot be written; --weight_dtype takes one of: float32, float16"):
        optimize(tmp_path / "was", tmp_path / "new", "int8")


def test_missing_weights(tmp_path):
    folder = small(tmp_path / "was")
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(OptimizeError, match=r"was cannot be loaded \(.*\); outputs could not be compared"):
        optimize(folder, tmp_path / "is")
    with pytest.raises(OptimizeError, match=r"the data of variable '.*' is not there; copy variables/ whole"):
        read_network(folder, "serving_default")


def test_images_of_any_size(tmp_path):
    folder = save(tmp_path / "was", lambda x, w: tf.reduce_mean(x, (1, 2)), (None, None, 3))
    with pytest.raises(OptimizeError, match="signature 'serving_default' takes images of any size, and borders depend on it"):
        read_network(folder, "serving_default")


def test_no_signature(tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "was"))
    with pytest.raises(OptimizeError, match="was has no signature to optimise; save it with signatures="):
        optimize(tmp_path / "was", tmp_path / "is")


def test_a_fixed_batch_stays(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(values(3, 3, 3, 4))
    weights = norm_weights("bn", 4)
    spec = tf.TensorSpec((2, 6, 6, 3), tf.float32, name="x")
    serve = tf.function(lambda x: {"y": norm(tf.nn.conv2d(x, module.kernel, 1, "SAME"), weights, "bn")}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "was"), signatures={"mine": serve})
    assert optimize(tmp_path / "was", tmp_path / "is").steps[3].changed == 1
    found = tf.saved_model.load(str(tmp_path / "is")).signatures
    assert list(found) == ["mine"]
    assert found["mine"].structured_input_signature[1]["x"].shape == (2, 6, 6, 3)
    assert found["mine"].structured_outputs["y"].shape == (2, 6, 6, 4)


def run_tool(*args):
    return programs.start("tools/export.py", *args)


def test_the_tool(tmp_path):
    done = run_tool("--load_folder", small(tmp_path / "was"), "--optimize", "--output", tmp_path / "is")
    assert (done.returncode, done.stderr) == (0, "")
    assert "    1  batch norms folded into convs and dense layers\n" in done.stdout
    assert f"python tools/count.py --diff {tmp_path / 'was'} {tmp_path / 'is'} shows what went" in done.stdout
    wrong = run_tool("--optimize", "--output", tmp_path / "new")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "export.py: --optimize needs --load_folder, an exported SavedModel, and --output, another folder\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_networks_of_others(name, tmp_path):
    keras.utils.set_random_seed(0)
    options = {"alpha": 0.35} if name == "MobileNetV2" else {}
    model = getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=10, **options)
    for variable in model.weights:
        if "moving" in variable.name or "bias" in variable.name:
            variable.assign(values(*variable.shape))
    model.export(str(tmp_path / "was"))
    result = optimize(tmp_path / "was", tmp_path / "is")
    count = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert (result.steps[3].changed, result.steps[3].left) == (count, ())
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])
    assert result.card is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "frenzy wrn_22_6 irnet_a_cifar irnet_c_cifar squeezenet_1_1_cifar resnet_20 microbotnet_x0.32 mobilenet_v1_cifar "
    "mobilenet_v2_cifar mobilenet_v3_small_cifar alexnet_cifar mcdonnell_20_4".split(),
)
def test_the_zoo(name, tmp_path):
    """Random statistics and biases: fresh zeros would be stored as masks."""
    from frenzy import litert, models

    keras.utils.set_random_seed(0)
    model = models.build(name)
    for variable in model.weights:
        if variable.shape.rank == 1:
            variable.assign(values(*variable.shape) * (0.1 if "bias" in variable.name or "beta" in variable.name else 1))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one batch sets the statistics
    model(RANDOM.normal(size=(16, *model.input_shape[1:])).astype(np.float32), training=True)
    for variable in model.weights:
        if "moving_variance" in variable.name:
            variable.assign(variable + 0.1)
    module = tf.Module()
    module.weights = {v.name: v for v in model.weights}
    spec = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="images")
    serve = tf.function(lambda images: {"logits": model(images, training=False)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "was"), signatures={"serving_default": serve})
    result = optimize(tmp_path / "was", tmp_path / "is")
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])
    without = accounts(read(tmp_path / "was"), ["micronet-baseline-bn"])["micronet-baseline-bn"].totals.operations
    with_folds = accounts(read(tmp_path / "is"), ["micronet-baseline-bn"])["micronet-baseline-bn"].totals.operations
    folded = sum(step.changed for step in result.steps[2:4])
    assert with_folds < without if folded else with_folds == without  # where every channel and BN in the graph counts
    if name in ("microbotnet_x0.32", "resnet_20", "squeezenet_1_1_cifar"):  # LiteRT's converter folds on its own
        original, optimised = (litert.operations(litert.convert(tmp_path / folder)) for folder in ("was", "is"))
        assert len(optimised) <= len(original)
