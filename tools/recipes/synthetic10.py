"""A small network on generated shapes: no data needed, two minutes on two cores. To see a run from beginning to end.

python tools/train.py --recipe synthetic10
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(network="frenzy_small", dataset="synthetic10", epochs=4, batch_size=128, peak_lr=0.1, hold_out=1000)
