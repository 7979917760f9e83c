"""Frenzy on CIFAR-100 as its backbone's paper trains: McDonnell, arXiv 1802.08530: warm restarts, cutout, no mean subtraction.

    python tools/train.py --recipe frenzy_cifar100 --data_dir DATA

The original's accuracy is 80.34 %. 254 epochs: the seven cycles of 2 to 128 epochs.
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="frenzy",
    dataset="cifar100",
    epochs=254,
    batch_size=125,
    schedule="warm_restarts",
    peak_lr=0.1,
    nesterov=False,
    weight_decay=5e-4,
    augmentation="mcdonnell",
    precision="mixed_bfloat16",
)
