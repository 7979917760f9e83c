"""IR-NET A on 100 classes of Tiny-ImageNet by its table 2: 55 epochs, batches of 256, 72.54 % there on classes of ImageNet.

python tools/train.py --recipe irnet_a_tiny_imagenet --data_dir DATA
python tools/train.py --recipe irnet_a_tiny_imagenet --network irnet_b --data_dir DATA     # squeeze-and-excite: 73.72 %
python tools/train.py --recipe irnet_a_tiny_imagenet --network irnet_c --data_dir DATA     # and conditional convolutions
"""

from frenzy.training.recipe import Recipe

RECIPE = Recipe(
    network="irnet_a",
    dataset="tiny_imagenet_100",
    epochs=55,
    batch_size=256,
    schedule="irnet",
    peak_lr=0.2,
    weight_decay=5e-5,
    augmentation="irnet",
)
