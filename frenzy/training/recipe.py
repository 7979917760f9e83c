"""What one training run needs, and nothing that a machine may choose."""

import dataclasses

from frenzy.data.policies import POLICIES
from frenzy.training.schedules import SCHEDULES

OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the field and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run, repeatable from these fields, the code and the data.

    SGD with momentum, or Adam with `momentum` as its first decay, under a `schedule` of SCHEDULES that peaks at `peak_lr`;
    `low_momentum` is what SGD's momentum falls to at that peak (None: it stays). `weight_decay` is the L2 penalty's gradient
    on the kernels of convs and dense layers alone. Epochs cover `batch_size * (n // batch_size)` images of a permutation that
    `seed` and the epoch give; `accumulate` splits a batch into as many parts whose gradients are averaged before one update.
    `augmentation` is one of POLICIES, `mixup` the alpha of its Beta distribution, `ema` the decay a step of averaged weights,
    which replace the others at the end (0: none of these). `teacher` is a SavedModel's folder: the loss is then (1 -
    distill_weight) CE + distill_weight T^2 KL at temperature T (Hinton et al., arXiv 1503.02531). With a `cycle` of k epochs,
    order and augmentation repeat after each k, and the teacher, whose answers are kept, is asked in the first k alone (after
    Shen and Xing, arXiv 2112.01528). `hold_out` training images, spread evenly over the classes, are left out of training:
    choices are made on these. `init_from` is the folder of a SavedModel whose weights, where they fit, are begun with;
    `dropout` replaces the network's own rate; `image_size` is the side that folders of images are brought to. `precision` is
    a tf_keras policy; float16 scales its loss. Raises RecipeError.
    """

    network: str
    dataset: str
    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    peak_lr: float = 0.1
    momentum: float = 0.9
    low_momentum: float | None = None
    nesterov: bool = True
    weight_decay: float = 5e-4
    accumulate: int = 1
    augmentation: str = "crop_flip"
    mixup: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    teacher: str | None = None
    distill_weight: float = 0.7
    temperature: float = 4.0
    cycle: int = 0
    hold_out: int = 0
    init_from: str | None = None
    dropout: float | None = None
    image_size: int | None = None
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("hold_out", 0), ("cycle", 0), ("seed", 0)):
            if (value := getattr(self, field)) < least:
                raise RecipeError(f"recipe: {field} is {value}; it must be {least} or more")
        for field in ("peak_lr", "weight_decay", "mixup"):
            if not (value := getattr(self, field)) >= 0:
                raise RecipeError(f"recipe: {field} is {value}; it must be 0 or more")
        if not self.temperature > 0:
            raise RecipeError(f"recipe: temperature is {self.temperature}; it must be above 0")
        for field in ("momentum", "low_momentum", "label_smoothing", "ema", "dropout"):
            if (value := getattr(self, field)) is not None and not 0 <= value < 1:
                raise RecipeError(f"recipe: {field} is {value}; it must be at least 0 and below 1")
        if not 0 <= self.distill_weight <= 1:
            raise RecipeError(f"recipe: distill_weight is {self.distill_weight}; it must be from 0 to 1")
        for field, allowed in (
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("schedule", SCHEDULES),
            ("augmentation", POLICIES),
        ):
            if (value := getattr(self, field)) not in allowed:
                raise RecipeError(f"recipe: {field} is {value!r}; allowed: {', '.join(allowed)}")
        if self.optimizer == "adam" and self.low_momentum is not None:
            raise RecipeError(f"recipe: low_momentum is {self.low_momentum}; Adam's does not cycle: leave it out, or take sgd")
        if self.batch_size % self.accumulate:
            raise RecipeError(f"recipe: accumulate is {self.accumulate}; it must divide the batch_size of {self.batch_size}")
