"""AlexNet for 32x32 on CIFAR-10, for tools/netadapt.py: the 5,000 images that choose there are held out of training here.

    python tools/train.py --recipe alexnet_cifar10 --data_dir DATA

3x3 stem of stride 2, pools of 2x2; widths as in the network that NetAdapt (arXiv 1804.03230) begins with.
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="alexnet_cifar",
    dataset="cifar10",
    epochs=30,
    batch_size=128,
    peak_lr=0.02,
    hold_out=5000,
    precision="mixed_bfloat16",
)
