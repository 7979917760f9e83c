"""ResNet-20 on CIFAR-10, tuned for five epochs after it was quantized, or as it is, to compare with.

    python tools/compress.py --method ttq --threshold 0.05 --load_folder zoo/resnet20_cifar10_short --recipe resnet20_cifar10_tune \
        --data_dir DATA
    python tools/train.py --recipe resnet20_cifar10_tune --init_from zoo/resnet20_cifar10_short --data_dir DATA
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="resnet_20",
    dataset="cifar10",
    epochs=5,
    batch_size=128,
    peak_lr=0.05,
    weight_decay=1e-4,
)
