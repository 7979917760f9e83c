"""What tests of graph passes share: SavedModels of a function and its weights, and the comparison before and after."""

import numpy as np
import tensorflow as tf

from frenzy.accounting import read
from frenzy.optimize import optimize

RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


def same_numbers_in_any_order():
    RANDOM.bit_generator.state = START


def values(*shape, low=0.5, high=1.5):
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def save(folder, function, shape, weights=(), dtype=np.float32):
    """A SavedModel of function(images, weights) with one signature; weights are variables by name."""
    module = tf.Module()
    module.weights = {name: tf.Variable(np.asarray(value), name=name) for name, value in dict(weights).items()}

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), dtype, name="images")])
    def serve(images):
        return {"logits": function(images, {n: tf.cast(v, tf.float32) for n, v in module.weights.items()})}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def outputs(folder, images):
    return tf.saved_model.load(str(folder)).signatures["serving_default"](images=tf.constant(images))["logits"].numpy()


def totals(report):
    return report.totals.parameters, report.totals.storage_bits, report.totals.operation_bits


def ops(folder):
    graph = read(folder)
    return [node.op for node in graph.nodes.values() if node.name in graph.data_nodes]


def norm(x, weights, name):
    parts = (weights[f"{name}/{part}"] for part in ("gamma", "beta", "mean", "variance"))
    return tf.compat.v1.nn.fused_batch_norm(x, *parts, is_training=False)[0]


def norm_weights(name, channels):
    parts = {
        "beta": values(channels, low=-1),
        "gamma": values(channels),
        "mean": values(channels, low=-1),
        "variance": values(channels),
    }
    return {f"{name}/{part}": value for part, value in parts.items()}


def check(folder, output, shape, equal=True):
    """Optimises and compares: outputs for other images and another batch, and the report under micronet."""
    result = optimize(folder, output)
    images = RANDOM.normal(size=(5, *shape)).astype(np.float32)
    np.testing.assert_allclose(outputs(output, images), outputs(folder, images), atol=1e-4, rtol=1e-4)
    before, after = totals(result.before["micronet"]), totals(result.after["micronet"])
    assert after == before if equal else all(a <= b for a, b in zip(after, before, strict=True))
    return result


def conv_then_norm(x, w):
    return norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "bn")
