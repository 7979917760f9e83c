"""What one training run needs, and nothing that a machine may choose."""

import dataclasses

PRECISIONS = ("float32", "mixed_bfloat16")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the field and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run, repeatable from these fields, the code and the data.

    SGD with Nesterov momentum under a one-cycle rate that peaks at `peak_lr`; `weight_decay` is the L2 penalty's gradient
    on kernels alone. Epochs cover `batch_size * (n // batch_size)` images of a permutation that `seed` and the epoch give.
    `precision` is a tf_keras policy: float32 or mixed_bfloat16 (float16 would need loss scaling, which fit does not do).
    """

    network: str
    dataset: str
    epochs: int
    batch_size: int = 128
    peak_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if (value := getattr(self, field)) < least:
                raise RecipeError(f"recipe: {field} is {value}; it must be {least} or more")
        for field in ("peak_lr", "weight_decay"):
            if not (value := getattr(self, field)) >= 0:
                raise RecipeError(f"recipe: {field} is {value}; it must be 0 or more")
        for field in ("momentum", "label_smoothing"):
            if not 0 <= (value := getattr(self, field)) < 1:
                raise RecipeError(f"recipe: {field} is {value}; it must be at least 0 and below 1")
        if self.precision not in PRECISIONS:
            raise RecipeError(f"recipe: precision is {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
