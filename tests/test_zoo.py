"""Every network of the zoo is built and counted: published figures, as arithmetic or as printed."""

import functools
import math

import pytest
import tf_keras as keras

from frenzy import models
from frenzy.models.arrays import ordered_layers
from frenzy.models.conv_bn import divisible
from frenzy.models.macs import count_macs, layer_macs


@pytest.fixture(autouse=True)
def _fresh():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def count(weights) -> int:
    return sum(math.prod(v.shape) for v in weights)


@functools.cache
def counted(name):
    """A zoo network that several tests look at and none changes."""
    return models.build(name)


# published counts, as arithmetic or as printed; trainable parameters (BN's scales and shifts) and MACs


def separable(steps, multiplier, classes):
    """MobileNetV1's parameters: (output width) of each block in turn, 32 in front."""
    width = divisible(32 * multiplier)
    total = 3 * 9 * width + 2 * width
    for out in (divisible(step * multiplier) for step in steps):
        total += 9 * width + 2 * width + width * out + 2 * out
        width = out
    return total + (width + 1) * classes


V1_STEPS = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
FD_STEPS = [64, 128, 128, 256, 256, *[512] * 5, 1024]


def wide(k, n, classes, stem=16):
    """A wide ResNet's (convs, BN, dense) parameters."""
    convs, bn, width = 3 * 9 * stem, 0, stem
    for out in (16 * k, 32 * k, 64 * k):
        convs += 9 * width * out + (2 * n - 1) * 9 * out * out + width * out
        bn += 2 * width + 2 * (2 * n - 1) * out
        width = out
    return convs, bn + 2 * width, (width + 1) * classes


def mcdonnell(k, n, classes=100):
    """All convs 3x3 at full width, the 1x1 head, and the learned BN of the input and the output."""
    w = 16 * k
    groups = (
        2 * n * 9 * w**2 + 9 * w * 2 * w + (2 * n - 1) * 9 * (2 * w) ** 2 + 9 * 2 * w * 4 * w + (2 * n - 1) * 9 * (4 * w) ** 2
    )
    return 3 * 9 * w + groups + 4 * w * classes + 2 * 3 + 2 * classes


def cifar_resnet(n):
    """conv and BN of the stem; 6 n layers of 16, 32, 64; dense 64 -> 10."""
    convs = 9 * 3 * 16 + 2 * n * 9 * 16**2 + 9 * 16 * 32 + (2 * n - 1) * 9 * 32**2 + 9 * 32 * 64 + (2 * n - 1) * 9 * 64**2
    return convs + 2 * (16 + 2 * n * (16 + 32 + 64)) + 65 * 10


IRNET_OUTS = [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, *[160] * 5, 320]
IRNET_INS = [16, *IRNET_OUTS[:-1]]
IRNET_BN = 2 * (16 + sum(2 * 4 * i + o for i, o in zip(IRNET_INS, IRNET_OUTS, strict=True)) + 1280)
IRNET_SE = sum(2 * (4 * i) ** 2 // 4 + 4 * i + i for i in IRNET_INS)
IRNET_A = 2_002_512 + 100
IRNET_KERNELS = IRNET_A - 432 - 409_600 - 128_000 - 100  # of the blocks
IRNET_ROUTING = sum(4 * i + 4 for i in IRNET_INS)

SHARED = ("wrn_22_6", "irnet_a", "microbotnet_x0.32", "squeezenet_1_1")
PARAMETERS = {
    "frenzy": 8_853_600 // 2 + 2 * 100,  # storage at 16 bits, kernel rows of zero channels included; the last BN
    "wrn_28_10": 36_536_884,
    "wrn_22_6": 9_693_108,
    "wrn_22_6_fastai": 9_693_108,
    "mcdonnell_20_4": mcdonnell(4, 3),
    "mcdonnell_20_10": mcdonnell(10, 3),
    "mcdonnell_26_10": mcdonnell(10, 4),
    "irnet_a": IRNET_A + IRNET_BN,
    "irnet_b": IRNET_A + IRNET_BN + IRNET_SE,
    "irnet_c": IRNET_A + IRNET_BN + IRNET_SE + 3 * IRNET_KERNELS + IRNET_ROUTING,
    "microbotnet_x1.00": 2_044_298,
    "microbotnet_x0.32": 236_658,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v1_x0.25": separable(V1_STEPS, 0.25, 1000),  # 0.47 M in the notes
    "mobilenet_v1_cifar": separable(V1_STEPS, 1, 10),
    "mobilenet_v2": 3_504_872,
    "mobilenet_v2_cifar": 3_504_872 - 1281 * 990,
    "mobilenet_v3_large": 5_483_032,  # 5.4 M in the paper
    "mobilenet_v3_small": 2_542_856,  # 2.5 M in the paper
    "mobilenet_v3_large_cifar": 5_483_032 - 1281 * 990,
    "mobilenet_v3_small_cifar": 2_542_856 - 1025 * 990,
    "fd_mobilenet": separable(FD_STEPS, 1, 1000),  # 2.9 M in the paper
    "fd_mobilenet_x0.25": 383_160,  # 0.383 M in the notes
    "fd_mobilenet_cifar": separable(FD_STEPS, 1, 10),
    "squeezenet_1_0": 1_248_424,
    "squeezenet_1_1": 1_235_496,
    "squeezenet_simple_bypass": 1_248_424,
    "squeezenet_complex_bypass": 1_248_424 + sum(i * o + o for i, o in ((96, 128), (128, 256), (256, 384), (384, 512))),
    "squeezenet_1_0_cifar": 1_248_424 - 513 * 990,
    "squeezenet_1_1_cifar": 1_235_496 - 513 * 990,
    "squeezenet_simple_bypass_cifar": 1_248_424 - 513 * 990,
    **{f"resnet_{6 * n + 2}": cifar_resnet(n) for n in (3, 5, 7, 9)},
    "resnet_18": 11_689_512,
    "resnet_18_cifar": 11_689_512 - 3 * 64 * (49 - 9) - 513 * 990,
    "alexnet": 61_100_840,  # torchvision's
    "alexnet_cifar": 61_100_840 - 3 * 64 * (121 - 9) - (9216 - 1024) * 4096 - 4097 * 990,
}

MACS = {
    "wrn_28_10": 5_243_387_008 - 640,  # the published multiplies without the pool's
    "wrn_22_6": 1_384_562_688 + 38_400,
    "irnet_a": 193_898_304,
    "irnet_b": 193_898_304 + sum(2 * (4 * i) ** 2 // 4 for i in IRNET_INS),
    "irnet_c": 193_898_304 + sum(2 * (4 * i) ** 2 // 4 for i in IRNET_INS) + 4 * IRNET_KERNELS + sum(4 * i for i in IRNET_INS),
    "microbotnet_x1.00": 4_875_264 + 766_240,
    "microbotnet_x0.32": 694_144 + 88_224,
    "mobilenet_v1": 568_740_352,  # 569 M in the paper
    "mobilenet_v2": 300_774_272,  # 300 M in the paper
    "mobilenet_v3_large": 216_589_760,  # 219 M in the paper
    "mobilenet_v3_small": 56_510_400,  # 56 M in the paper
    "fd_mobilenet": 144_489_728,  # 144 M in the paper
    "fd_mobilenet_x0.25": 12_037_952,  # 12 M in the paper
    "resnet_20": 9 * 3 * 16 * 1024 + 6 * 9 * 16**2 * 1024 + 9 * 16 * 32 * 256 + 5 * 9 * 32**2 * 256 + 9 * 32 * 64 * 64
    + 5 * 9 * 64**2 * 64 + 640,
    "resnet_18": 1_814_073_344,
    "alexnet": 714_188_480,
}  # fmt: skip


# the rows of another member on smaller images
TWINS = [name for name in models.ZOO if name.endswith("_cifar") and name not in ("resnet_18_cifar", "alexnet_cifar")]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in TWINS else name for name in models.ZOO])
def test_every_member_is_built_and_counted(name):
    entry, model = models.ZOO[name], counted(name) if name in SHARED else models.build(name)
    assert model.name == name
    assert model.input_shape == (None, *entry.input_shape)
    assert model.output_shape == (None, entry.num_classes)
    assert len(ordered_layers(model)) == len(model.layers)
    if name in PARAMETERS:
        assert count(model.trainable_weights) == PARAMETERS[name]
    if name in MACS:
        assert count_macs(model) == MACS[name]


def test_builders_agree_with_the_arithmetic_of_the_papers():
    assert wide(10, 4, 100) == (36_454_832, 17_952, 64_100)
    assert wide(6, 3, 100) == (9_646_512, 8_096, 38_500)
    assert separable(V1_STEPS, 1, 1000) == 4_231_976
    assert (mcdonnell(4, 3) // 10**5, mcdonnell(10, 3) // 10**5) == (43, 267)  # 4.3 M; 26.8 M, rounded up
    assert round(mcdonnell(10, 3) / 1e6, 1) == 26.8
    assert [round(cifar_resnet(n) / 1e6, 2) for n in (3, 5, 7, 9)] == [0.27, 0.46, 0.66, 0.85]  # table 6 of arXiv 1512.03385


def test_wrn_parts():
    model = counted("wrn_22_6")
    kinds = {keras.layers.Conv2D: 9_646_512, keras.layers.BatchNormalization: 8_096, keras.layers.Dense: 38_500}
    for kind, parameters in kinds.items():
        assert sum(count(layer.trainable_weights) for layer in model.layers if isinstance(layer, kind)) == parameters


# table 4 of IR-NET (MACs, coefficients), with the 24->40 row as it is and not as printed: (5,494,272)
IRNET_TABLE = {
    "stem": (1_354_752, 432),
    "row1": (8_228_864, 2_624),
    "row2": (9_834_496, 3_136),
    "row3": (17_160_192, 5_472),
    "row4": (10_913_280, 7_008),
    "row5": (22_328_320, 28_480),
    "row6": (7_808_640, 20_640),
    "row7": (31_799_040, 162_240),
    "row8": (7_667_520, 79_680),
    "row9": (41_269_760, 842_240),
    "row10": (15_335_040, 312_960),
    "head": (20_070_400, 409_600),
    "logits": (128_000, 128_000),
}


def test_irnet_table():
    found = dict.fromkeys(IRNET_TABLE, (0, 0))
    for layer in counted("irnet_a").layers:
        coefficients = sum(count([v]) for v in layer.weights if v.name.endswith("kernel:0"))
        if coefficients:
            row = layer.name.split("_")[0]
            found[row] = (found[row][0] + layer_macs(layer), found[row][1] + coefficients)
    assert found == IRNET_TABLE
    assert [sum(column) for column in zip(*found.values(), strict=True)] == [193_898_304, 2_002_512]


def test_microbotnet_quantized_share():
    """The notes quantize 31 tensors, 153,792 weights: kernels inside the blocks with more than 1,000 elements."""
    weights = [v for v in counted("microbotnet_x0.32").trainable_weights if v.name.endswith("kernel:0") and "block" in v.name]
    sizes = [count([v]) for v in weights if count([v]) > 1000]
    assert (len(sizes), sum(sizes), 236_658 - sum(sizes)) == (31, 153_792, 82_866)


def test_squeezenet_has_the_kernels_of_the_notes():
    """Fire modules of version 1.1, as the notes list them."""
    kernels = [v.shape for v in counted("squeezenet_1_1").trainable_weights if "fire" in v.name and "kernel" in v.name]
    listed = [(16, 64), (16, 128), (32, 128), (32, 256), (48, 256), (48, 384), (64, 384), (64, 512)]
    assert [(s[3], s[2]) for s in kernels if s[3] < 64 or s[2] > 300] == listed
    assert len(kernels) == 24


# the registry


def test_build_takes_classes_input_and_overrides():
    model = models.build("microbotnet_x0.25", 7, (64, 48, 3), dropout=0.1, name="mine")
    assert (model.input_shape, model.output_shape, model.name) == ((None, 64, 48, 3), (None, 7), "mine")
    assert model.get_layer("dropout").rate == 0.1


def test_unknown_name():
    with pytest.raises(KeyError) as error:
        models.build("resnet_19")
    assert str(error.value).startswith("no network 'resnet_19'; known: alexnet, alexnet_cifar, ")


def test_every_entry_names_its_source():
    assert all(0 < len(entry.source) <= 25 for entry in models.ZOO.values())
