"""Frenzy on CIFAR-100, a short one-cycle run for two CPU cores; the published network trained far longer.

    python tools/train.py --recipe frenzy_cifar100_short --data_dir DATA

53.40 % top-1, 82.90 % top-5 of the 10,000 test images (n = 1 run, seed 0; weights rounded to 16 bits), 2026-11-20,
TensorFlow 2.21.0, two cores of an AMD EPYC with AVX-512 and bfloat16: 100 minutes with other work on the same cores.
"""

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
