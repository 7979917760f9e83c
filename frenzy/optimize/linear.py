"""What scales and constants do to the kernels of convs and dense layers: plain arithmetic on arrays.

Kernels are as TensorFlow has them: Conv2D (h, w, in / groups, out), depthwise (h, w, in, multiplier), dense (in, out), dense
with transpose_b (out, in), transposed conv (h, w, out, in).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from frenzy.accounting.graph import Node

LINEAR = frozenset({"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "MatMul"})
KERNEL = 1  # which input of such a node is its kernel


def _outputs_first(node: Node) -> bool:
    """Whether the kernel's axis of outputs stands before that of inputs."""
    return node.op == "Conv2DBackpropInput" or bool(_attr(node.attrs, "transpose_b"))


def _attr(attrs: Mapping[str, Any], key: str) -> Any:
    return attrs.get(key) or False


def scale_outputs(node: Node, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The kernel whose outputs are `scale` (outputs,) times as large."""
    if node.op == "DepthwiseConv2dNative":
        return kernel * scale.reshape(kernel.shape[-2:])
    return kernel * (scale[:, None] if _outputs_first(node) else scale)


def per_kernel_input(node: Node, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values (inputs,) as an array that broadcasts against the kernel, each where its input is multiplied."""
    if node.op == "DepthwiseConv2dNative":
        return values[:, None]
    if _outputs_first(node):
        return values
    rows, outputs = kernel.shape[-2:]
    groups = len(values) // rows
    return np.repeat(values.reshape(groups, rows).T, outputs // groups, axis=1)


def scale_inputs(node: Node, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The kernel that gives for x what this one gives for x * scale, `scale` (inputs,)."""
    return kernel * per_kernel_input(node, kernel, scale)


def response(node: Node, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(inputs,) -> (outputs,): what images that are everywhere `values` give where no padding is read."""
    products = kernel * per_kernel_input(node, kernel, values)
    if node.op == "DepthwiseConv2dNative":
        return products.sum(axis=(0, 1)).ravel()
    return products.sum(axis=-1 if _outputs_first(node) else tuple(range(products.ndim - 1)))


def take_inputs(node: Node, kernel: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kernel that reads only the inputs of the mask; not for grouped convs."""
    return kernel[..., kept] if _outputs_first(node) else kernel[..., kept, :]
