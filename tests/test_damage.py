"""SavedModels with anything wrong in them: one clear error or a report, never another exception."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from frenzy.accounting import AccountingError, account, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network whose saved_model.pb the tests write over."""
    net = tf.Module()
    net.kernel = tf.Variable(np.ones((3, 3, 3, 5), np.float32))
    net.bias = tf.Variable(np.ones((5,), np.float32))
    inner = tf.function(lambda x: tf.nn.bias_add(tf.nn.conv2d(x, net.kernel, 1, "SAME"), net.bias))
    net.__call__ = tf.function(lambda x: tf.nn.relu(inner(x)), input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
    place = tmp_path_factory.mktemp("damage") / "m"
    tf.saved_model.save(net, str(place), signatures={"serving_default": net.__call__})
    return place


def outcome(folder, content):
    (folder / "saved_model.pb").write_bytes(content)
    try:
        return account(read(folder))
    except AccountingError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    return None


@pytest.fixture(scope="module")
def original(folder):
    return (folder / "saved_model.pb").read_bytes()


def messages(message, found):
    """A proto and all protos inside it."""
    found.append(message)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    messages(value[key], found)
        elif field.is_repeated:
            for item in value:
                messages(item, found)
        else:
            messages(value, found)
    return found


def spoil(meta, random):
    """One field of one proto, anywhere in the graph, its objects or its signatures: emptied, or given another value."""
    found = messages(meta.graph_def, []) + messages(meta.object_graph_def, [])
    found += [inner for name in meta.signature_def for inner in messages(meta.signature_def[name], [])]
    message = found[random.integers(len(found))]
    fields = message.ListFields()
    if not fields:
        return
    field, value = fields[random.integers(len(fields))]
    if isinstance(value, str):
        setattr(message, field.name, value[:-1] if random.random() < 0.5 else "other")
    elif isinstance(value, int) and field.enum_type is None and not isinstance(value, bool):
        setattr(message, field.name, int(random.choice([0, 1, 3, 7, 1000])))
    else:
        message.ClearField(field.name)


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_fields(folder, original, seed):
    random = np.random.default_rng(seed)
    reports = []
    for _ in range(40):
        model = saved_model_pb2.SavedModel.FromString(original)
        for _ in range(2):
            spoil(model.meta_graphs[0], random)
        reports.append(outcome(folder, model.SerializeToString()))
    assert any(reports)
    assert not all(reports)


def test_cut_and_spoilt_bytes(folder, original):
    random = np.random.default_rng(0)
    for _ in range(60):
        outcome(folder, original[: random.integers(len(original))])
        spoilt = bytearray(original)
        for position in random.integers(len(original), size=4):
            spoilt[position] = random.integers(256)
        outcome(folder, bytes(spoilt))
