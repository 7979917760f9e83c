"""McDonnell's 20-10 on CIFAR-100: arXiv 1802.08530, table 1: 17.19 % errors in 254 epochs with cutout, at 32 bits.

python tools/train.py --recipe mcdonnell_20_10_cifar100 --data_dir DATA
python tools/train.py --recipe mcdonnell_20_10_cifar100 --network mcdonnell_20_4 --epochs 126 --data_dir DATA    # 20.48 %
"""

import dataclasses

from tools.recipes import frenzy_cifar100

RECIPE = dataclasses.replace(frenzy_cifar100.RECIPE, network="mcdonnell_20_10")
