"""Feature maps of 2 to 8 bits: which maps of a network are quantized, by a range that follows a moving average.

A map's range [low, high] holds 0 always. The first batch sets it, later ones move it by 1 - decay of what they differ; its 2^bits
values lie evenly, one of them 0. The gradient is 1 inside the range, 0 outside (TensorFlow's FakeQuantWithMinMaxVars).
"""

from collections.abc import Iterable

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress.rewire import Added, producers, rewired
from frenzy.compress.tensors import CompressError
from frenzy.compress.uniform import check_bits
from frenzy.layers import activations
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.squeeze_excite import SqueezeExcite, squeeze_excite
from frenzy.layers.subsample import Subsample

layers = keras.layers

NEVER, TRAINING, ALWAYS = 0, 1, 2  # when a range follows what it sees
SUFFIX = "_map"  # of the layers that hold maps


def moved_range(low: tf.Tensor, high: tf.Tensor, x: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The range, moved by `share` (0..1) towards that of x, any shape, and 0."""
    seen_low, seen_high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    return low + share * (seen_low - low), high + share * (seen_high - high)


def fake_quantize(x: tf.Tensor, low: tf.Tensor | float, high: tf.Tensor | float, bits: int) -> tf.Tensor:
    """Any shape -> the same, on 2^bits values of the range."""
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)


@keras.utils.register_keras_serializable("frenzy")
class MovingRange(tfmot.quantization.keras.quantizers.Quantizer):
    """Quantizes by the moving range, which stops where `observing` says so; a range that saw nothing leaves maps as they are.

    Raises CompressError.
    """

    def __init__(self, bits: int = 8, decay: float = 0.99):
        check_bits(bits)
        if not 0 <= decay < 1:
            raise CompressError(f"decay is {decay}; it must be at least 0 and below 1: 0.99, say")
        self.bits, self.decay = bits, decay

    def build(self, tensor_shape, name, layer):
        def state(role: str, dtype, value) -> tf.Variable:
            start = keras.initializers.Constant(value)
            return layer.add_weight(
                f"{name}_{role}", (), dtype, start, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )

        return {
            "low": state("low", tf.float32, 0.0),
            "high": state("high", tf.float32, 0.0),
            "seen": state("seen", tf.int32, 0),
            "observing": state("observing", tf.int32, TRAINING),
        }

    def _observe(self, x: tf.Tensor, weights) -> None:
        share = tf.where(weights["seen"] > 0, 1 - self.decay, 1.0)
        low, high = moved_range(weights["low"], weights["high"], x, share)
        weights["low"].assign(low)
        weights["high"].assign(high)
        weights["seen"].assign_add(1)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        def observed():
            self._observe(inputs, weights)
            return tf.constant(True)

        tf.cond(weights["observing"] >= (TRAINING if training else ALWAYS), observed, lambda: tf.constant(False))
        low, high = tf.convert_to_tensor(weights["low"]), tf.convert_to_tensor(weights["high"])
        return tf.cond(weights["seen"] > 0, lambda: fake_quantize(inputs, low, high, self.bits), lambda: inputs)

    def get_config(self):
        return {"bits": self.bits, "decay": self.decay}


@keras.utils.register_keras_serializable("frenzy")
class FakeQuantize(keras.layers.Layer):
    """Any shape -> the same, on 2^bits values of a fixed range: a map of a finished network."""

    def __init__(self, low: float, high: float, bits: int, **kwargs):
        super().__init__(**kwargs)
        check_bits(bits)
        self.low, self.high, self.bits = low, high, bits

    def call(self, inputs):
        return fake_quantize(inputs, self.low, self.high, self.bits)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "low": self.low, "high": self.high, "bits": self.bits}


@keras.utils.register_keras_serializable("frenzy")
class Excite(keras.layers.Layer):
    """[(n, h, w, c), gates (n, c)] -> (n, h, w, c): each channel of each image times its gate."""

    def call(self, inputs):
        return squeeze_excite(*inputs)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


FUSED = (
    layers.BatchNormalization,
    layers.ReLU,
    layers.Activation,
    activations.HardSigmoid,
    activations.HardSwish,
    FakeQuantize,
)
PASSING = (
    layers.Dropout, layers.Flatten, layers.MaxPooling2D, layers.Reshape, layers.ZeroPadding2D, Subsample, ZeroPadChannels, FakeQuantize
)  # fmt: skip


def _unfolded_one(layer: SqueezeExcite, producer: str) -> list[Added]:
    """A squeeze-and-excite layer as plain ones, so that its inner maps can be quantized, with its weights."""
    name, (reduce, expand) = layer.name, (layer.reduce_kernel, layer.expand_kernel)
    biases = [[] if bias is None else [bias.numpy()] for bias in (layer.reduce_bias, layer.expand_bias)]

    def dense(role: str, kernel) -> keras.layers.Layer:
        return layers.Dense(kernel.shape[-1], use_bias=layer.use_bias, name=f"{name}_{role}")

    return [
        Added(layers.GlobalAveragePooling2D(name=f"{name}_pool"), (producer,)),
        Added(dense("reduce", reduce), (f"{name}_pool",), (reduce.numpy(), *biases[0])),
        Added(layers.ReLU(name=f"{name}_relu"), (f"{name}_reduce",)),
        Added(dense("expand", expand), (f"{name}_relu",), (expand.numpy(), *biases[1])),
        Added(activations.layer(layer.gate, f"{name}_gate"), (f"{name}_expand",)),
        Added(Excite(name=f"{name}_excite"), (producer, f"{name}_gate")),
    ]


def unfolded(model: keras.Model) -> keras.Model:
    """The same network with its squeeze-and-excite layers as plain ones: block1_se -> block1_se_pool ... block1_se_excite."""
    found = {layer.name: layer for layer in model.layers if isinstance(layer, SqueezeExcite)}
    renamed = {name: f"{name}_excite" for name in found}
    added = []
    for layer in found.values():
        (producer,) = producers(layer)
        added += _unfolded_one(layer, renamed.get(producer, producer))
    return rewired(model, added, renamed, dropped=found) if found else model


def feature_maps(model: keras.Model) -> list[str]:
    """The layers whose output is a map that is stored: read by more than what fuses with its producer (BN, activations).

    Images count too. What only moves values or chooses among them (pads, pools of maxima) makes no new map; logits are none.
    """
    readers: dict[str, list[keras.layers.Layer]] = {layer.name: [] for layer in model.layers}
    for layer in model.layers:
        for producer in producers(layer):
            if producer in readers:
                readers[producer].append(layer)
    ends = {tensor.node.layer.name for tensor in model.outputs}
    return [
        layer.name
        for layer in model.layers
        if layer.name not in ends
        and not isinstance(layer, PASSING)
        and not all(isinstance(reader, FUSED) for reader in readers[layer.name])
    ]


def with_maps(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """The same network with a linear layer "<name>_map" behind every layer of feature_maps, squeeze-and-excite unfolded; and
    the new layers' names."""
    model = unfolded(model)
    renamed = {name: f"{name}{SUFFIX}" for name in feature_maps(model)}
    added = [Added(layers.Activation("linear", name=new), (old,)) for old, new in renamed.items()]
    return rewired(model, added, renamed), list(renamed.values())


def map_states(model: keras.Model) -> dict[str, tuple[MovingRange, dict]]:
    """{map: (its MovingRange, its variables)} of a wrapped network."""
    wrappers = (layer for layer in model.layers if isinstance(layer, tfmot.quantization.keras.QuantizeWrapper))
    found = [layer for layer in wrappers if layer._output_quantizers and isinstance(layer._output_quantizers[0], MovingRange)]
    return {layer.name: (layer._output_quantizers[0], layer._output_quantizer_vars) for layer in found}


def _observe(model: keras.Model, when: int) -> None:
    for _, variables in map_states(model).values():
        variables["observing"].assign(when)


def calibrate(model: keras.Model, batches: Iterable[tf.Tensor]) -> None:
    """Ranges from batches of normalised images (n, h, w, c), seen as in inference; weights and BN statistics stay.

    Raises CompressError where there is nothing to calibrate or no batch.
    """
    if not map_states(model):
        raise CompressError(f"{model.name} has no quantized maps to calibrate; wrap it with map_bits of 2 to 8")
    _observe(model, ALWAYS)
    run = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    try:
        for images in batches:
            run(images)
    finally:
        _observe(model, TRAINING)
    check_ranges(model)


def check_ranges(model: keras.Model) -> None:
    """Raises CompressError where a range saw nothing, or no finite numbers."""
    for name, (_, variables) in map_states(model).items():
        low, high = float(variables["low"]), float(variables["high"])
        if not int(variables["seen"]):
            raise CompressError(
                f"{model.name}: the range of map {name!r} is not known, no batch reached it; calibrate or train first"
            )
        if not abs(low) + abs(high) < float("inf"):
            raise CompressError(
                f"{model.name}: the range of map {name!r} is {low} to {high}; start again at a lower learning rate"
            )


def freeze(model: keras.Model) -> None:
    """Ranges stay as they are from here on. Raises CompressError where one is not known."""
    check_ranges(model)
    _observe(model, NEVER)


class FreezeRanges(keras.callbacks.Callback):
    """Ranges stay as they are for the last epochs, so that the weights settle on them."""

    def __init__(self, last_epochs: int = 1):
        super().__init__()
        self.last_epochs = last_epochs

    def on_epoch_begin(self, epoch, logs=None):
        if map_states(self.model) and 0 < epoch >= self.params["epochs"] - self.last_epochs:
            freeze(self.model)


def frozen(name: str, quantizer, variables) -> FakeQuantize:
    """A finished layer of a map's range: of a MovingRange, or of a quantizer of tfmot's own with one range a map."""
    if isinstance(quantizer, MovingRange):
        return FakeQuantize(float(variables["low"]), float(variables["high"]), quantizer.bits, name=name)
    return FakeQuantize(float(variables["min_var"]), float(variables["max_var"]), quantizer.num_bits, name=name)
