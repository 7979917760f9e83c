"""ResNet-20 on CIFAR-10, a short one-cycle run for two CPU cores; the paper trains for 164 epochs and reaches 91.25 %.

python tools/train.py --recipe resnet20_cifar10_short --data_dir DATA
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="resnet_20",
    dataset="cifar10",
    epochs=16,
    batch_size=128,
    peak_lr=0.2,
    weight_decay=5e-4,
    precision="mixed_bfloat16",
)
