"""Frenzy on CIFAR-100, a short one-cycle run for two CPU cores; the published network trained far longer."""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="frenzy",
    dataset="cifar100",
    epochs=4,
    batch_size=100,
    peak_lr=0.1,
    weight_decay=5e-4,
    precision="mixed_bfloat16",
)
