"""MicroBotNet x0.32 on CIFAR-10, taught by a ResNet-20: 236,658 parameters, 782,368 multiply-accumulates.

python tools/train.py --recipe microbotnet_x032_cifar10 --data_dir DATA
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="microbotnet_x0.32",
    dataset="cifar10",
    epochs=100,
    batch_size=128,
    schedule="linear_cosine",
    peak_lr=0.1,
    weight_decay=3e-4,
    mixup=0.2,
    dropout=0.1,
    teacher="zoo/resnet20_cifar10_short",
    distill_weight=0.9,
    temperature=4.0,
    cycle=8,
)
