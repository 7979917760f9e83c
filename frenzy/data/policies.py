"""What is done to training images, by name: rows that augment.augmented follows. No TensorFlow here, so that flags can list them."""

import dataclasses

from frenzy.data.split import DataError


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is done to the images of a training batch, in this order; what is None or 0 is left out."""

    source: str
    pad: int = 0
    mode: str = "REFLECT"  # of the padding
    size: int | None = None  # of the random crop; None: that of the images
    flip: bool = False
    geometry: float = 0.0  # probability of each of rotation, zoom and warp
    lighting: float = 0.0  # probability of each of brightness and contrast
    normalised: bool = True  # False: x / 255, without mean and std
    cutout: int = 0  # side of the square, of 0 after normalisation


POLICIES = {
    "crop_flip": Policy("He et al., arXiv 1512.03385, section 4.2, with mirrored borders", pad=4, flip=True),
    "crop_flip_cutout": Policy("DeVries and Taylor, arXiv 1708.04552: 16x16 for CIFAR-10", pad=4, flip=True, cutout=16),
    "fastai": Policy(
        "fastai 1.0: get_transforms and rand_pad(4), cropped before the rest; mixup is apart", pad=4, flip=True, geometry=0.75,
        lighting=0.75,
    ),
    "irnet": Policy("56x56 out of 64x64, as its table 1 reads; of the rest it says 'a generic ImageNet routine'", size=56, flip=True),
    "mcdonnell": Policy(
        "McDonnell, arXiv 1802.08530: pads with random values, takes no mean off, cuts out 18x18", pad=4, mode="RANDOM", flip=True,
        normalised=False, cutout=18,
    ),
    "none": Policy("the images as they are"),
}  # fmt: skip


def policy(name: str) -> Policy:
    """The row of POLICIES. Raises DataError for a name that is not there."""
    if name not in POLICIES:
        raise DataError(f"no augmentation {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name]
