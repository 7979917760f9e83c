"""IR-NET A at 32x32 on CIFAR-100, by its table 2 but for crops and flips of CIFAR; --network irnet_b_cifar, irnet_c_cifar likewise.

python tools/train.py --recipe irnet_a_cifar100 --data_dir DATA
"""

import dataclasses

from tools.recipes import irnet_a_tiny_imagenet

RECIPE = dataclasses.replace(
    irnet_a_tiny_imagenet.RECIPE, network="irnet_a_cifar", dataset="cifar100", augmentation="crop_flip", weight_decay=5e-4
)
