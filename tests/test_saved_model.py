"""Reading SavedModels of every make: entries, calls, batches, captures, and files that are damaged."""

import gc
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import judge_folder
from tensorflow.core.protobuf import saved_model_pb2

from frenzy.accounting import AccountingError, read

IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32)
MACS = (8 * 8 * 5) * (3 * 3 * 3)


class Net(tf.Module):
    """One 3x3 conv, 3 -> 5, with a bias: as plain a network as there is."""

    def __init__(self, spec=IMAGE):
        super().__init__()
        self.kernel = tf.Variable(np.ones((3, 3, 3, 5), np.float32), name="same_name")
        self.bias = tf.Variable(np.arange(5, dtype=np.float32), name="same_name")
        self.spec = spec

    @tf.function
    def conv(self, x):
        return tf.nn.bias_add(tf.nn.conv2d(x, self.kernel, 1, "SAME"), self.bias)


def save(folder, module, signatures=None):
    tf.saved_model.save(module, str(folder), signatures=signatures or {})  # without the {}, TensorFlow finds one itself
    return folder


def callable_net(spec=IMAGE):
    net = Net(spec)
    net.__call__ = tf.function(net.conv, input_signature=[spec])
    return net


def conv_row(report):
    (row,) = [row for row in report.rows if row.op == "Conv2D"]
    return row


def rewrite(folder, change):
    """Changes a saved_model.pb in place, as another writer would have written it."""
    path = pathlib.Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def test_without_signatures(tmp_path):
    graph, reports = judge_folder(save(tmp_path / "m", callable_net()))
    row = conv_row(reports["frenzy"])
    assert graph.entry == "__call__"
    assert (row.multiplies, row.parameters, row.nonzero) == (MACS, 3 * 3 * 3 * 5, 3 * 3 * 3 * 5)


def test_variables_of_one_name_are_told_apart(tmp_path):
    net = callable_net()
    for name, signatures in (("call", None), ("signature", {"serving_default": net.__call__})):
        _, reports = judge_folder(save(tmp_path / name, net, signatures))
        (bias,) = [row for row in reports["micronet"].rows if row.op == "BiasAdd"]
        assert (bias.parameters, bias.nonzero) == (5, 4)  # 0, 1, 2, 3, 4


def test_only_signature_of_any_name(tmp_path):
    net = callable_net()
    graph, reports = judge_folder(save(tmp_path / "m", net, {"predict": net.__call__}))
    assert graph.entry == "predict"
    assert conv_row(reports["frenzy"]).multiplies == MACS


def test_several_signatures_need_an_entry(tmp_path):
    net = Net()
    one = tf.function(net.conv, input_signature=[IMAGE])
    two = tf.function(lambda x: net.conv(net.conv(x)[..., :3]), input_signature=[IMAGE])
    folder = save(tmp_path / "m", net, {"one": one, "two": two})
    with pytest.raises(AccountingError, match="name an --entry of: one, two"):
        read(folder)
    with pytest.raises(AccountingError, match="has no entry 'three'; --entry takes one of: one, two"):
        read(folder, entry="three")
    _, reports = judge_folder(folder, entry="two")
    rows = [row for row in reports["frenzy"].rows if row.op == "Conv2D"]
    assert [row.multiplies for row in rows] == [MACS, MACS]
    assert [row.parameters for row in rows] == [3 * 3 * 3 * 5, 0]  # called twice: stored once


def test_another_root_function_by_name(tmp_path):
    net = Net()
    net.embed = tf.function(net.conv, input_signature=[IMAGE])
    folder = save(tmp_path / "m", net)
    with pytest.raises(AccountingError, match=r"name an --entry of: (conv, )?embed"):
        read(folder)
    assert judge_folder(folder, entry="embed")[0].entry == "embed"


def test_batch_of_32_is_divided_out(tmp_path):
    spec = tf.TensorSpec((32, 8, 8, 3), tf.float32)
    graph, reports = judge_folder(save(tmp_path / "m", callable_net(spec)))
    row = conv_row(reports["micronet"])
    assert graph.batch == 32
    assert row.multiplies == MACS
    assert row.output_shape == (1, 8, 8, 5)


def test_one_image_without_batch(tmp_path):
    net = Net()
    net.__call__ = tf.function(lambda x: net.conv(x[None])[0], input_signature=[tf.TensorSpec((8, 8, 3), tf.float32)])
    graph, reports = judge_folder(save(tmp_path / "m", net))
    assert (graph.batch, conv_row(reports["frenzy"]).multiplies) == (1, MACS)


def test_no_values_without_the_shards(tmp_path):
    folder = save(tmp_path / "m", callable_net())
    for path in (folder / "variables").glob("variables.data*"):
        path.unlink()
    _, reports = judge_folder(folder)
    row = conv_row(reports["frenzy"])
    assert (row.multiplies, row.parameters, row.nonzero) == (MACS, 3 * 3 * 3 * 5, None)
    assert any("sparsity is not known" in note for note in reports["frenzy"].notes)
    shutil.rmtree(folder / "variables")
    assert conv_row(judge_folder(folder)[1]["frenzy"]).multiplies == MACS


def test_open_sizes_are_named_and_settled(tmp_path):
    folder = save(tmp_path / "m", callable_net(tf.TensorSpec((None, None, None, 3), tf.float32)))
    with pytest.raises(AccountingError, match=r"is \(\?, \?, \?, 3\): dimension 1, 2 is not known; give it by --input_shape"):
        read(folder)
    with pytest.raises(AccountingError, match=r"--input_shape 8,8,4 does not fit it"):
        read(folder, input_shape=(8, 8, 4))
    for shape in ((8, 8, 3), (1, 8, 8, 3), (16, 8, 8, 3)):
        assert conv_row(judge_folder(folder, input_shape=shape)[1]["frenzy"]).multiplies == MACS


def test_an_input_shape_that_the_graph_cannot_take(tmp_path):
    net = Net()
    net.dense = tf.Variable(np.ones((8 * 8 * 5, 2), np.float32))
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    net.__call__ = tf.function(lambda x: tf.reshape(net.conv(x), (-1, 8 * 8 * 5)) @ net.dense, input_signature=[spec])
    folder = save(tmp_path / "m", net)
    with pytest.raises(AccountingError, match=r"shapes do not fit together: .*; check --input_shape"):
        read(folder, input_shape=(7, 7, 3))


@pytest.mark.parametrize("signed", [False, True])
def test_calls_however_deep(tmp_path, signed):
    net = Net()
    net.scale = tf.Variable(2.0)
    inner = tf.function(net.conv)
    wrapped = tf.function(lambda x: inner(x) * net.scale)
    net.__call__ = tf.function(lambda x: wrapped(x) + 1.0, input_signature=[IMAGE])
    folder = save(tmp_path / "m", net, {"serving_default": net.__call__} if signed else None)

    def deepen(meta):
        """The function that calls the conv's, 3,000 times over, each copy calling the next."""
        library = meta.graph_def.library
        names = {f.signature.name for f in library.function}
        calls = {f.signature.name: [n for n in f.node_def if n.attr["f"].func.name in names] for f in library.function}
        middle = next(f for f in library.function if calls[f.signature.name] and len(f.signature.input_arg) == 4)
        call = next(n for n in middle.node_def if n.attr["f"].func.name in names)
        bottom = call.attr["f"].func.name
        chain = next(f for f in library.function if f.signature.name == bottom)
        for i in range(3000):
            link = library.function.add()
            link.CopyFrom(chain)
            link.signature.name = f"link_{i}"
            arguments = [a.name for a in chain.signature.input_arg]
            del link.node_def[:]
            step = link.node_def.add(name="deeper", op="StatefulPartitionedCall", input=arguments)
            step.attr["Tin"].list.type.extend(a.type for a in chain.signature.input_arg)
            step.attr["Tout"].list.type.extend(a.type for a in chain.signature.output_arg)
            step.attr["f"].func.name = f"link_{i + 1}" if i < 2999 else bottom
            for result in chain.signature.output_arg:
                link.ret[result.name] = "deeper:output:0"
        call.attr["f"].func.name = "link_0"

    rewrite(folder, deepen)
    _, reports = judge_folder(folder)
    assert conv_row(reports["frenzy"]).multiplies == MACS


def test_one_function_called_twice_gives_two_nodes(tmp_path):
    net = Net()
    net.__call__ = tf.function(lambda x: net.conv(x) + net.conv(2.0 * x), input_signature=[IMAGE])
    _, reports = judge_folder(save(tmp_path / "m", net))
    rows = [row for row in reports["frenzy"].rows if row.op == "Conv2D"]
    assert [row.parameters for row in rows] == [135, 0]
    assert len({row.name for row in rows}) == 2


def test_captured_constants(tmp_path):
    literal = tf.constant(np.eye(5, dtype=np.float32)[None, None] * np.ones((1, 1, 5, 5), np.float32))
    net = Net()
    net.__call__ = tf.function(lambda x: tf.nn.conv2d(net.conv(x), literal, 1, "SAME"), input_signature=[IMAGE])
    for name, signatures in (("call", None), ("signature", {"serving_default": net.__call__})):
        _, reports = judge_folder(save(tmp_path / name, net, signatures))
        rows = [row for row in reports["frenzy"].rows if row.op == "Conv2D"]
        assert [(row.parameters, row.nonzero) for row in rows] == [(135, 135), (25, 5)]


def test_weights_stored_at_16_bits_and_cast(tmp_path):
    net = tf.Module()
    net.kernel = tf.Variable(np.ones((3, 3, 3, 5), np.float16))
    net.__call__ = tf.function(lambda x: tf.nn.conv2d(x, tf.cast(net.kernel, tf.float32), 1, "SAME"), input_signature=[IMAGE])
    _, reports = judge_folder(save(tmp_path / "m", net))
    row = conv_row(reports["micronet"])
    assert (row.weight_bits, row.parameters, row.storage_bits) == (16, 135, 135 * 16)


def test_below_16_bits_there_is_no_allowance(tmp_path):
    net = tf.Module()
    net.codes = tf.Variable(np.ones((3, 3, 3, 5), np.int8))
    net.scale = tf.Variable(np.ones((5,), np.float32))
    net.__call__ = tf.function(
        lambda x: tf.nn.conv2d(x, tf.cast(net.codes, tf.float32) * net.scale, 1, "SAME"), input_signature=[IMAGE]
    )
    _, reports = judge_folder(save(tmp_path / "m", net))
    row = conv_row(reports["micronet"])
    assert row.storage_bits == 135 * 8 + 5 * 32
    assert row.operation_bits == 32 * (MACS + MACS - 8 * 8 * 5)
    assert any("no allowance" in note for note in reports["micronet"].notes)


def test_sparse_weights_are_mask_and_nonzeros(tmp_path):
    kernel = np.zeros((3, 3, 3, 5), np.float32)
    kernel[0, 0, :, :4] = 1
    net = tf.Module()
    net.kernel = tf.Variable(kernel)
    net.__call__ = tf.function(lambda x: tf.nn.conv2d(x, net.kernel, 1, "SAME"), input_signature=[IMAGE])
    _, reports = judge_folder(save(tmp_path / "m", net))
    row = conv_row(reports["micronet"])
    assert row.nonzero == 3 * 4
    assert row.storage_bits == 12 * 16 + 135
    assert (row.multiplies, row.adds) == (12 * 8 * 8, (12 - 4) * 8 * 8)  # three of the four live outputs' terms are summed


def test_an_older_writer(tmp_path):
    """TensorFlow 2.0 wrote no shapes into functions, and none of the fields that came after it."""

    def age(meta):
        meta.meta_info_def.ClearField("function_aliases")
        meta.meta_info_def.tensorflow_version = "2.0.0"
        for node in [*meta.graph_def.node, *(n for f in meta.graph_def.library.function for n in f.node_def)]:
            for key in [key for key in node.attr if key.startswith("_")]:
                del node.attr[key]
        for function in meta.graph_def.library.function:
            function.ClearField("arg_attr")
            function.attr.clear()

    for name, signed in (("call", False), ("signature", True)):
        net = callable_net()
        folder = save(tmp_path / name, net, {"serving_default": net.__call__} if signed else None)
        rewrite(folder, age)
        assert conv_row(judge_folder(folder)[1]["frenzy"]).multiplies == MACS


def test_an_op_that_tensorflow_does_not_know(tmp_path):
    net = Net()
    net.__call__ = tf.function(lambda x: tf.nn.relu(tf.nn.softsign(net.conv(x))), input_signature=[IMAGE])
    folder = save(tmp_path / "m", net)

    def rename(meta):
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node.op == "Softsign":
                    node.op = "MyOwnActivation"

    rewrite(folder, rename)
    _, reports = judge_folder(folder)
    (row,) = reports["frenzy"].unknown
    assert (row.op, row.output_shape) == ("MyOwnActivation", (1, 8, 8, 5))
    assert "no rule for op 'MyOwnActivation' (node 'Softsign', inputs (1, 8, 8, 5), output (1, 8, 8, 5))" in row.formula


def test_an_op_without_a_rule_is_listed(tmp_path):
    net = Net()
    net.__call__ = tf.function(lambda x: tf.math.bessel_i0(net.conv(x)), input_signature=[IMAGE])
    _, reports = judge_folder(save(tmp_path / "m", net))
    assert [row.op for row in reports["micronet"].unknown] == ["BesselI0"]


def test_a_loop_is_an_unknown_node(tmp_path):
    net = Net()

    def loop(x):
        return tf.while_loop(
            lambda i, y: i < tf.cast(tf.reduce_sum(x), tf.int32), lambda i, y: (i + 1, y * 2.0), (0, net.conv(x))
        )[1]

    net.__call__ = tf.function(loop, input_signature=[IMAGE])
    _, reports = judge_folder(save(tmp_path / "m", net))
    assert [row.op for row in reports["frenzy"].unknown] in (["While"], ["StatelessWhile"])


def test_keras_models_of_any_writer(tmp_path):
    import tf_keras as keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    inner = keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model = keras.Model(inputs, inner(keras.layers.Flatten()(x)))
    model.save(tmp_path / "saved", save_format="tf")
    tf.saved_model.save(model, str(tmp_path / "plain"))
    model.export(str(tmp_path / "exported"))
    for folder in ("saved", "plain", "exported"):
        _, reports = judge_folder(tmp_path / folder)
        assert reports["frenzy"].unknown == ()
        assert conv_row(reports["frenzy"]).multiplies == MACS
        assert reports["frenzy"].totals.parameters == (135 + 5) + (320 * 2 + 2)
        (norm,) = [row for row in reports["micronet"].rows if row.op.startswith("FusedBatchNorm")]
        assert (norm.status, norm.parameters) == ("folded", 0)  # the conv has a bias already


DAMAGE = {
    "no such folder": (lambda folder: shutil.rmtree(folder), "no folder "),
    "no graph file": (lambda folder: (folder / "saved_model.pb").unlink(), "is no SavedModel: it holds no saved_model.pb"),
    "truncated": (lambda folder: cut(folder / "saved_model.pb"), "saved_model.pb (cannot be read|holds no graph)"),
    "garbage": (lambda folder: (folder / "saved_model.pb").write_bytes(b"\x99" * 999), "cannot be read"),
    "empty": (lambda folder: (folder / "saved_model.pb").write_bytes(b""), "holds no graph"),
    "a folder in its place": (lambda folder: swap(folder / "saved_model.pb"), "is no SavedModel"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def swap(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files(tmp_path, damage):
    folder = save(tmp_path / "m", callable_net())
    spoil, message = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(AccountingError, match=message):
        read(folder)


def test_garbage_is_collected_again_after_an_error(tmp_path):
    with pytest.raises(AccountingError, match="no folder"):
        read(tmp_path / "nothing")
    assert gc.isenabled()


def test_references_to_nothing(tmp_path):
    def empty(meta):
        for function in meta.graph_def.library.function:
            del function.node_def[:]

    folder = save(tmp_path / "m", callable_net())
    rewrite(folder, empty)
    with pytest.raises(AccountingError, match="the file is damaged"):
        read(folder)


def test_a_function_that_calls_itself(tmp_path):
    net = Net()
    inner = tf.function(lambda x: net.conv(x) * 2.0)
    net.__call__ = tf.function(lambda x: inner(x) + 1.0, input_signature=[IMAGE])
    folder = save(tmp_path / "m", net)

    def bend(meta):
        calls = [n for f in meta.graph_def.library.function for n in f.node_def if n.op == "StatefulPartitionedCall"]
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node in calls:
                    node.attr["f"].func.name = function.signature.name

    rewrite(folder, bend)
    with pytest.raises(AccountingError, match="calls itself"):
        read(folder)
