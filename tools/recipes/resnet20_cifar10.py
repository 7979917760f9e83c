"""ResNet-20 on CIFAR-10 at full length: batches of 128, 200 epochs, a tenth of the rate after 60, 120 and 180.

    python tools/train.py --recipe resnet20_cifar10 --data_dir DATA

He et al. (arXiv 1512.03385) report 91.25 %, the ternary and 1-bit work that starts from it 91.77 %.
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="resnet_20",
    dataset="cifar10",
    epochs=200,
    batch_size=128,
    schedule="step",
    peak_lr=0.1,
    nesterov=False,
    weight_decay=1e-4,
    precision="mixed_bfloat16",
)
