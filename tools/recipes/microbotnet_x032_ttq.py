"""Ternary MicroBotNet x0.32 on CIFAR-10 from the trained network, after its notes: Adam for latent weights, scales and the rest.

    python tools/compress.py --method ttq --threshold 0.3 --load_folder zoo/microbotnet_x032_cifar10 --recipe microbotnet_x032_ttq \
        --data_dir DATA
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="microbotnet_x0.32",
    dataset="cifar10",
    epochs=48,
    batch_size=128,
    optimizer="adam",
    schedule="cosine",
    peak_lr=2e-3,
    weight_decay=0.0,
    dropout=0.0,
    teacher="zoo/resnet20_cifar10_short",
    distill_weight=0.9,
    temperature=4.0,
    cycle=4,
)
