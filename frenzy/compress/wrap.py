"""A network wrapped for training with quantizers, through tfmot, and taken out of all wrappers again with what they compute.

tfmot quantizes what is annotated. Its default scheme would add 8-bit maps of its own before annotated layers and refuses what it
does not know (BN that follows no conv, SE gates, custom layers); the scheme here leaves everything else alone.
"""

import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress import activations
from frenzy.compress.tensors import CompressError, Rule, Tensor, select, short_name

Quantizer: typing.TypeAlias = tfmot.quantization.keras.quantizers.Quantizer
Make = Callable[[], Quantizer]
PRUNING = type(tfmot.sparsity.keras.prune_low_magnitude(keras.layers.Dense(1)))  # the classes themselves are not public
CLUSTERING = type(tfmot.clustering.keras.cluster_weights(keras.layers.Dense(1), 2))
QUANTIZING = tfmot.quantization.keras.QuantizeWrapper
WRAPPERS: typing.Any = (PRUNING, CLUSTERING, QUANTIZING)


@keras.utils.register_keras_serializable("frenzy")
class LayerConfig(tfmot.quantization.keras.QuantizeConfig):
    """How a layer is quantized: {weight: quantizer}, and a quantizer of its output or None."""

    def __init__(self, weights: Mapping[str, Quantizer], output: Quantizer | None = None):
        self.weights, self.output = dict(weights), output

    def get_weights_and_quantizers(self, layer):
        return [(getattr(layer, name), quantizer) for name, quantizer in self.weights.items()]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        for name, value in zip(self.weights, quantize_weights, strict=True):
            setattr(layer, name, value)

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return [] if self.output is None else [self.output]

    def get_config(self):
        return {
            "weights": {name: keras.utils.serialize_keras_object(each) for name, each in self.weights.items()},
            "output": keras.utils.serialize_keras_object(self.output),
        }

    @classmethod
    def from_config(cls, config):
        with tfmot.quantization.keras.quantize_scope():
            return cls(
                {name: keras.utils.deserialize_keras_object(each) for name, each in config["weights"].items()},
                keras.utils.deserialize_keras_object(config["output"]) if config["output"] else None,
            )


class _OnlyAnnotated(
    tfmot.quantization.keras.QuantizeScheme,
    tfmot.quantization.keras.QuantizeRegistry,
    tfmot.quantization.keras.QuantizeLayoutTransform,
):
    """A scheme that quantizes what has a config and nothing besides."""

    def get_layout_transformer(self):
        return self

    def get_quantize_registry(self):
        return self

    def apply(self, model, layer_quantize_map):
        return model, layer_quantize_map

    def supports(self, layer) -> bool:
        return False

    def get_quantize_config(self, layer):
        return None


def check(model) -> None:
    """Raises CompressError for what tfmot cannot wrap."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        hint = " (Keras 3)" if kind.startswith("keras.") else ""
        raise CompressError(f"{kind}{hint} is no tf_keras model; build it with tf_keras: tfmot takes no other")
    if not getattr(model, "_is_graph_network", False) or isinstance(model, keras.Sequential):
        raise CompressError(f"{model.name} is no functional model; build it as keras.Model(inputs, outputs)")
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            raise CompressError(f"{model.name}: layer {layer.name!r} is a model itself; call its layers in one model")
        if isinstance(layer, WRAPPERS):
            raise CompressError(f"{model.name}: layer {layer.name!r} is wrapped already; strip the network first")
        if layer.compute_dtype != layer.dtype:
            raise CompressError(
                f"{model.name}: layer {layer.name!r} computes in {layer.compute_dtype}, which tfmot refuses; "
                "build the network with precision float32"
            )


def renewed(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer of the same config, not yet built."""
    return getattr(layer, "plain", layer.__class__).from_config(layer.get_config())


def wrapped_by(model: keras.Model, wrap: Mapping[str, Callable[[keras.layers.Layer], keras.layers.Layer]]) -> keras.Model:
    """A copy with the weights of `model`, where the layers of these names are wrapped; wrappers show their layer's weights alone."""

    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def copy(layer):
        new = wrap.get(layer.name, lambda same: same)(renewed(layer))
        pairs.append((layer, new))
        return new

    clone = keras.models.clone_model(model, clone_function=copy)
    for layer, new in pairs:
        new.set_weights(layer.get_weights())
    return clone


def by_layer(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of each layer."""
    found: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.layer, []).append(tensor)
    return found


def quantize(model: keras.Model, weights: Make | None, rule: Rule = Rule(), maps: Make | None = None) -> keras.Model:  # noqa: B008
    """A trainable copy whose kernels that the rule takes, and maps, go through quantizers, a fresh one each.

    Layers keep their names. Trained weights are what quantizers start from. Raises CompressError.
    """
    check(model)
    model, names = activations.with_maps(model) if maps else (model, [])
    configs = {}
    if weights:
        chosen = by_layer(select(model, rule))
        configs = {layer: LayerConfig({tensor.weight: weights() for tensor in chosen[layer]}) for layer in chosen}
    if maps:
        configs |= {name: LayerConfig({}, maps()) for name in names}
    annotate = tfmot.quantization.keras.quantize_annotate_layer
    annotated = wrapped_by(model, {name: partial(annotate, quantize_config=config) for name, config in configs.items()})
    with tfmot.quantization.keras.quantize_scope():
        wrapped = tfmot.quantization.keras.quantize_apply(annotated, _OnlyAnnotated(), quantized_layer_name_prefix="")
    for layer in wrapped.layers:
        for weight, quantizer, variables in getattr(layer, "_weight_vars", ()):
            quantizer(weight, True, weights=variables)  # tfmot's own take their range from what they see in training
    return wrapped


def effective(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """{weight: the values that inference uses} of a layer, wrapped or not."""
    found = {short_name(variable): variable.numpy() for variable in layer.weights}
    if isinstance(layer, QUANTIZING):
        for weight, quantizer, variables in layer._weight_vars:
            found[short_name(weight)] = quantizer(weight, False, weights=variables).numpy()
    if isinstance(layer, PRUNING):
        for weight, mask, _ in layer.pruning_vars:
            found[short_name(weight)] = (weight * mask).numpy()
    if isinstance(layer, CLUSTERING):
        layer.update_clustered_weights_associations()
        for name in layer.original_clusterable_weights:
            found[name] = tf.convert_to_tensor(layer.get_weight_from_layer(name)).numpy()
    return found


def _plain(layer: keras.layers.Layer) -> keras.layers.Layer:
    """What stands in a finished network for a layer, wrapped or not."""
    if isinstance(layer, QUANTIZING) and layer._output_quantizers:
        return activations.frozen(layer.name, layer._output_quantizers[0], layer._output_quantizer_vars)
    return renewed(layer.layer if isinstance(layer, WRAPPERS) else layer)


def strip(model: keras.Model) -> keras.Model:
    """The plain network of a wrapped one, with the values that inference uses in place of weights: equal logits.

    Quantized maps become FakeQuantize layers of fixed range. Raises CompressError where a range is not known.
    """
    activations.check_ranges(model)
    values = {}

    def bare(layer):
        plain = _plain(layer)
        values[plain.name] = effective(layer)
        return plain

    finished = keras.models.clone_model(model, clone_function=bare)
    for layer in finished.layers:
        for variable in layer.weights:
            variable.assign(values[layer.name][short_name(variable)])
    return finished
