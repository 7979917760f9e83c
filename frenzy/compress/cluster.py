"""Weights of few distinct values: tfmot's weight clustering, on convs, depthwise convs and squeeze-and-excite alike."""

import typing

import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress import wrap
from frenzy.compress.tensors import IN_BLOCKS, CompressError, Rule, select
from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D
from frenzy.layers.depthwise import DepthwiseConv2D
from frenzy.layers.squeeze_excite import SqueezeExcite

START = tfmot.clustering.keras.CentroidInitialization


class ClusteredLayer(tfmot.clustering.keras.ClusterableLayer):
    """What tfmot asks of a layer that it does not know, or whose kernels it would pass over: the weights in `clustered`.

    `plain` is the class that such a layer is of again when it is finished.
    """

    plain: type
    clustered: tuple[str, ...] = ()

    def get_clusterable_weights(self):
        return [(name, getattr(self, name)) for name in self.clustered]


def _clusterable(kind: type) -> type:
    return type(f"Clustered{kind.__name__}", (kind, ClusteredLayer), {"plain": kind})


CLUSTERED: dict[type, typing.Any] = {
    kind: _clusterable(kind)
    for kind in (
        keras.layers.DepthwiseConv2D,
        DepthwiseConv2D,
        keras.layers.Conv2D,
        keras.layers.Dense,
        SqueezeExcite,
        CondConv2D,
        CondDepthwiseConv2D,
    )
}


def cluster(model: keras.Model, clusters: int = 16, rule: Rule = IN_BLOCKS, preserve_sparsity: bool = False) -> keras.Model:
    """A trainable copy whose kernels that the rule takes have at most `clusters` distinct values each.

    Centroids start evenly between the smallest and the largest weight and are trained; `preserve_sparsity`: zeros stay zeros.
    Raises CompressError.
    """
    wrap.check(model)
    least = 3 if preserve_sparsity else 2
    if clusters < least:
        raise CompressError(
            f"clusters is {clusters}; it must be {least} or more{' to keep zeros' if preserve_sparsity else ''}"
        )
    tensors = select(model, rule)
    if small := next((tensor for tensor in tensors if tensor.size <= clusters), None):
        raise CompressError(f"clusters is {clusters}: {small.name} has {small.size} elements; take fewer, or other --tensors")
    chosen = wrap.by_layer(tensors)

    def of(names: tuple[str, ...]):
        def clustered(layer):
            if type(layer) not in CLUSTERED:
                kind = type(layer).__name__
                raise CompressError(f"layer {layer.name!r} is a {kind}, which cannot be clustered; leave it out by --tensors")
            own = CLUSTERED[type(layer)].from_config(layer.get_config())
            own.clustered = names
            return own

        return clustered

    kinds = {layer: of(tuple(each.weight for each in chosen[layer])) for layer in chosen}
    ready = wrap.wrapped_by(model, kinds)

    def wrapped(layer):
        if layer.name not in chosen:
            return layer
        return tfmot.clustering.keras.cluster_weights(
            layer, number_of_clusters=clusters, cluster_centroids_init=START.LINEAR, preserve_sparsity=preserve_sparsity
        )

    return keras.models.clone_model(ready, clone_function=wrapped)
