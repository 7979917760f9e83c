"""WRN-22-6 on CIFAR-100 as its submission trains: fastai's one-cycle and transforms, mixup, 600 epochs; above 80 % there.

    python tools/train.py --recipe wrn_22_6_cifar100 --data_dir DATA

fastai's defaults fill in what the submission leaves open: momentum 0.95 to 0.85 and back, mixup 0.4, weight decay 0.01 taken
off the weights directly at Adam's rates there; here SGD's usual 5e-4.
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="wrn_22_6",
    dataset="cifar100",
    epochs=600,
    batch_size=128,
    schedule="one_cycle",
    peak_lr=0.1,
    momentum=0.95,
    low_momentum=0.85,
    nesterov=False,
    weight_decay=5e-4,
    augmentation="fastai",
    mixup=0.4,
    precision="mixed_bfloat16",
)
