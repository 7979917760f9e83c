"""Weights of zero: tfmot's magnitude pruning on a growing schedule, and pruning in rounds as the winners of 2019 did.

tfmot's: sparsity s + (0 - s) (1 - step / last)^3 a tensor, single weights, blocks of matrices, or m zeros of n neighbours. In
rounds: magnitudes are divided by the root mean square of their tensor, the smallest of the whole network go, 10 % of all in a
round, with fine-tuning between; what is gone stays gone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress import wrap
from frenzy.compress.tensors import IN_BLOCKS, CompressError, Rule, Tensor, select, variable_name

UPDATES = 100  # of the masks, over a schedule
LAST = 0.75  # share of the steps after which the sparsity no longer grows


def check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise CompressError(f"sparsity is {sparsity}; the share of zeros must be at least 0 and below 1: 0.8, say")


def pair(text: str | tuple[int, int] | None, name: str) -> tuple[int, int] | None:
    """ "4x1" or "2:4" -> two whole numbers above 0; None stays None. Raises CompressError."""
    if not isinstance(text, str):
        return text
    parts = text.replace("x", ":").split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise CompressError(
            f"{name} is {text!r}; two whole numbers above 0 are needed: 4x1 for blocks, 2:4 for zeros of neighbours"
        )
    return int(parts[0]), int(parts[1])


def polynomial(sparsity: float, steps: int) -> tfmot.sparsity.keras.PruningSchedule:
    """From 0 to `sparsity` over three quarters of the steps, fast at first (power 3): Zhu & Gupta, arXiv 1710.01878."""
    last = max(1, int(steps * LAST))
    return tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, 0, last, power=3, frequency=max(1, last // UPDATES))


def _check_pattern(tensors: list[Tensor], block: tuple[int, int] | None, zeros: tuple[int, int] | None) -> None:
    if block and zeros:
        raise CompressError(f"block {block} and zeros {zeros} cannot be had together; leave one out")
    if block and (odd := next((tensor for tensor in tensors if len(tensor.shape) != 2), None)):
        raise CompressError(
            f"block {block[0]}x{block[1]}: {odd.name} is {odd.shape}, and tfmot prunes blocks of matrices alone; "
            "choose dense kernels by --tensors REGEX, or prune single weights"
        )
    if zeros and not zeros[0] < zeros[1]:
        raise CompressError(f"zeros {zeros[0]}:{zeros[1]}: m zeros of n neighbours need m below n: 2:4, say")
    if zeros and (odd := next((tensor for tensor in tensors if len(tensor.shape) not in (2, 4)), None)):
        raise CompressError(
            f"zeros {zeros[0]}:{zeros[1]}: {odd.name} is {odd.shape}; convs and dense kernels alone can have them"
        )


def prune(
    model: keras.Model,
    sparsity: float = 0.8,
    steps: int = 1000,
    rule: Rule = IN_BLOCKS,
    block: str | tuple[int, int] | None = None,
    zeros: str | tuple[int, int] | None = None,
) -> keras.Model:
    """A copy whose kernels that the rule takes are pruned by tfmot while it trains for `steps` steps.

    `block` (rows, columns): whole blocks of a matrix, by their mean magnitude. `zeros` (m, n): m zeros of every n neighbouring
    inputs, from the first step on, whatever the sparsity. Raises CompressError.
    """
    wrap.check(model)
    check_sparsity(sparsity)
    block, zeros = pair(block, "block"), pair(zeros, "zeros")
    tensors = select(model, rule)
    _check_pattern(tensors, block, zeros)
    settings = {"pruning_schedule": polynomial(sparsity, steps), "block_size": block or (1, 1), "sparsity_m_by_n": zeros}

    def of(names: list[str]):
        def pruned(layer):
            layer.get_prunable_weights = lambda: [getattr(layer, name) for name in names]
            return tfmot.sparsity.keras.prune_low_magnitude(layer, **settings)

        return pruned

    chosen = wrap.by_layer(tensors)
    wrapped = wrap.wrapped_by(model, {layer: of([each.weight for each in chosen[layer]]) for layer in chosen})
    for layer in wrapped.layers:
        if isinstance(layer, wrap.PRUNING):
            layer.pruning_step.assign(0)  # what UpdatePruningStep does for those who train without it
    return wrapped


@keras.utils.register_keras_serializable("frenzy")
class Mask(tfmot.quantization.keras.quantizers.Quantizer):
    """Weights times a mask of 0 and 1, which begins as 1; no gradient reaches what is masked."""

    def build(self, tensor_shape, name, layer):
        return {"mask": layer.add_weight(variable_name(name, "mask"), tensor_shape, initializer="ones", trainable=False)}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        return tf.convert_to_tensor(inputs) * weights["mask"]

    def get_config(self):
        return {}


def normalised_masks(weights: Mapping[str, np.ndarray], sparsity: float) -> dict[str, np.ndarray]:
    """float32 masks of the weights' shapes with round(sparsity n) zeros of all n: the smallest |w| / rms(w of its tensor).

    Weights that are zero already do not count in the root mean square, and go first.
    """
    check_sparsity(sparsity)
    scores = {}
    for name, w in weights.items():
        live = w[w != 0].astype(np.float64)
        rms = math.sqrt(np.mean(live**2)) if live.size else 1.0
        scores[name] = np.abs(w) / rms
    flat = np.concatenate([score.ravel() for score in scores.values()])
    kept = np.ones(flat.size, np.float32)
    kept[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = 0
    ends = np.cumsum([score.size for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, np.split(kept, ends[:-1]), strict=True)}


def rounds(sparsity: float, share: float = 0.1) -> list[float]:
    """The sparsities after each round: share, 2 share, ... sparsity."""
    check_sparsity(sparsity)
    if not 0 < share <= 1:
        raise CompressError(f"share is {share}; of the weights that go in a round, it must be above 0 and at most 1: 0.1, say")
    return [share * i for i in range(1, math.ceil(sparsity / share - 1e-9))] + [sparsity]


def maskable(model: keras.Model, rule: Rule = IN_BLOCKS) -> keras.Model:
    """A copy whose kernels that the rule takes have masks, all 1 at first. Raises CompressError."""
    return wrap.quantize(model, Mask, rule)


def set_masks(model: keras.Model, sparsity: float) -> None:
    """Masks the smallest normalised magnitudes of a maskable network. Raises CompressError where it has no masks."""
    found = {}
    for layer in model.layers:
        for weight, quantizer, variables in getattr(layer, "_weight_vars", ()):
            if isinstance(quantizer, Mask):
                found[weight.name] = (weight, variables["mask"])
    if not found:
        raise CompressError(f"{model.name} has no masks; make it maskable first")
    masks = normalised_masks({name: (weight * mask).numpy() for name, (weight, mask) in found.items()}, sparsity)
    for name, (_, mask) in found.items():
        mask.assign(masks[name])


def prune_in_rounds(
    model: keras.Model, sparsity: float, finetune: Callable[[keras.Model, float], Any], share: float = 0.1
) -> Any:
    """Masks a maskable network further and further; finetune(model, sparsity so far) trains it in place after every round.

    Returns what the last of these did. Raises CompressError.
    """
    last = None
    for so_far in rounds(sparsity, share):
        set_masks(model, so_far)
        last = finetune(model, so_far)
    return last
