"""Packed networks: as small as they are counted, the same logits bit for bit, and what is no network refused by name."""

import dataclasses
import json
import math
import os
import pathlib
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import compress, export, models, packed
from frenzy.accounting import CONVENTIONS, account, read
from frenzy.accounting.conventions.forms import whole_form
from frenzy.compress.activations import calibrate, map_states
from frenzy.compress.prune import set_masks
from frenzy.models import frenzy as frenzy_model
from frenzy.models.frenzy import unpruned_rows
from frenzy.packed import PackedError
from frenzy.packed.codes import encode
from frenzy.packed.container import dump

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIXELS = export.Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NAMES = [f"name {i}" for i in range(10)]
TINY = models.Entry(partial(frenzy_model.build, unpruned_rows((4, 8), 1)), "made here", num_classes=10)
KERNELS = compress.Rule(more_than=100)


@pytest.fixture
def tiny(monkeypatch):
    """A network of the zoo that is quick to export."""
    monkeypatch.setitem(models.ZOO, "tiny", TINY)
    keras.utils.set_random_seed(0)
    model = models.build("tiny")
    for variable in model.weights:  # statistics as training leaves them
        if "moving" in variable.name:
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    return model


def smaller(model, method):
    """The network as `compress` leaves it, without training."""
    wrapped = compress.compress(model, method, KERNELS, **({"clusters": 20} if method == "cluster" else {}))
    if method == "prune_in_rounds":
        set_masks(wrapped, 0.8)
    if map_states(wrapped):
        calibrate(wrapped, [tf.constant(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), tf.float32)])
    return compress.strip(wrapped)


def exported(model, folder, dtype="float16"):
    if dtype:
        export.round_weights(model, dtype)
    facts = {"dataset": "cifar10", "training": {"seconds": None, "recipe": {"network": "tiny"}}}
    export.export(model, folder, PIXELS, NAMES, dtype, facts)
    return folder


def logits(folder):
    images = tf.constant(np.random.default_rng(2).normal(size=(3, 32, 32, 3)), tf.float32)
    return tf.saved_model.load(str(folder)).signatures["serving_default"](images=images)["logits"].numpy()


def check_sizes(folder, path, sizes):
    """The size rule, and that its terms add up to the file."""
    facts, found = packed.read_packed(path)
    assert os.path.getsize(path) == sizes.file_bytes
    bits = [whole_form(array).bits(array.size, np.count_nonzero(array)) for array in found.values()]
    assert sizes.payload_bits == sum(bits)
    assert sum(map(math.floor, np.array(bits) / 8)) <= sizes.payload_bytes <= sum(map(math.ceil, np.array(bits) / 8))
    assert (
        sizes.header_bytes <= 4096 + 64 * (len(found) + len(facts["maps"])) == packed.allowed_header(sizes, len(facts["maps"]))
    )
    claimed = account(read(folder), "packed").totals.storage_bits
    assert sizes.payload_bytes <= claimed / 8 + len(found)  # a tensor is filled up to bytes
    assert sizes.file_bytes <= claimed / 8 + packed.allowed_header(sizes, len(facts["maps"])) + len(found)
    terms = packed.terms(folder, sizes)
    assert sum(term.bits for term in terms) == 8 * sizes.file_bytes
    assert terms[0].bits == account(read(folder), "micronet").totals.storage_bits
    return found


METHODS = {  # -> the form of a kernel
    "ttq": "mc16.2",
    "one_negative_one": "ms16",
    "hysteresis": "s16",
    "mcdonnell": "s16",
    "int8": "g16.8",
    "prune_in_rounds": "md16",
    "cluster": "c16.20",
}


@pytest.mark.parametrize("method", [name if name == "int8" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_every_method_is_packed_as_small_as_claimed(tiny, tmp_path, method):
    """What the accountant charges for every dot product is what the file takes, and the logits come back bit for bit."""
    folder = exported(smaller(tiny, method), tmp_path / "m")
    sizes = packed.pack(folder, tmp_path / "f")
    found = check_sizes(folder, tmp_path / "f", sizes)
    rules = CONVENTIONS["micronet"]
    report = account(read(folder), dataclasses.replace(rules, live=False, allowance=False))
    kernels = {row.name.split("/")[-2]: row for row in report.rows if row.op == "Conv2D"}
    assert len(kernels) == 1 + 2 * 3 + 1  # stem, three convs a block, head
    for layer, row in kernels.items():
        array = found[f"{layer}/kernel"]
        coded = encode(array)
        assert row.storage_bits == coded.numbers.size * 16 + coded.bits.size, row.stored_as
    assert encode(found["block2_conv1/kernel"]).code.word == METHODS[method]
    packed.unpack(tmp_path / "f", tmp_path / "back")
    assert logits(tmp_path / "back").tobytes() == logits(folder).tobytes()


def test_back_and_forth(tiny, tmp_path):
    """The same file twice; the card comes back; packing what was unpacked gives the same file again."""
    folder = exported(tiny, tmp_path / "m")
    sizes = packed.pack(folder, tmp_path / "f")
    assert packed.pack(folder, tmp_path / "g") == sizes
    data = (tmp_path / "f").read_bytes()
    assert data == (tmp_path / "g").read_bytes()
    check_sizes(folder, tmp_path / "f", sizes)
    card = packed.unpack(tmp_path / "f", tmp_path / "back")
    assert json.loads(json.dumps(card)) == export.read_card(folder) == export.read_card(tmp_path / "back")
    assert packed.verify(tmp_path / "f", folder) == 4
    packed.pack(tmp_path / "back", tmp_path / "g")
    assert data == (tmp_path / "g").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "f", "g", "m"]


@pytest.mark.slow
def test_32_bits(tiny, tmp_path):
    """Stored at 32 bits it takes 32, though micronet's allowance counts 16; the difference is named."""
    folder = exported(tiny, tmp_path / "m", None)
    sizes = packed.pack(folder, tmp_path / "f")
    found = check_sizes(folder, tmp_path / "f", sizes)
    assert {array.dtype.name for array in found.values()} == {"float32"}
    (term,) = [term for term in packed.terms(folder, sizes) if "allowance" in term.text]
    kernels = sum(array.size for name, array in found.items() if name.endswith("kernel"))
    assert term.bits > 16 * kernels
    packed.unpack(tmp_path / "f", tmp_path / "back")
    assert logits(tmp_path / "back").tobytes() == logits(folder).tobytes()


@pytest.mark.slow
def test_overrides_are_kept(tiny, tmp_path):
    model = models.build("tiny", symmetric_padding=True)
    folder = exported(model, tmp_path / "m")
    packed.pack(folder, tmp_path / "f", {"symmetric_padding": True})
    packed.unpack(tmp_path / "f", tmp_path / "back")
    assert logits(tmp_path / "back").tobytes() == logits(folder).tobytes()
    packed.pack(folder, tmp_path / "f")
    with pytest.raises(PackedError, match="tiny as it is built here is another network than the one that was packed"):
        packed.unpack(tmp_path / "f", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "f", "m"]


@pytest.fixture
def forge(tiny, tmp_path):
    """forge(facts, tensors) -> a packed file with these in place of the network's own, and SHA-256 that hold."""
    facts = {
        "network": "tiny",
        "overrides": {},
        "input_shape": [32, 32, 3],
        "class_names": NAMES,
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "task": "cifar100",
        "card": {},
        "maps": {},
        "graph_sha256": "",
    }
    arrays = {name: v.numpy().astype(np.float16) for name, v in models.arrays.named_weights(tiny).items()}

    def write(changed=None, replaced=None):
        given = {**arrays, **(replaced or {})}
        data, _ = dump({**facts, **(changed or {})}, {name: array for name, array in given.items() if array is not None})
        (tmp_path / "f").write_bytes(data)
        return tmp_path / "f"

    return write


@pytest.mark.parametrize(
    ("changed", "replaced", "expected"),
    [
        ({"network": "nets.evil"}, None, "its network is 'nets.evil'; needed: a network that tools/zoo.py lists"),
        ({"network": ["tiny"]}, None, "its network is "),
        ({"input_shape": [32, 32]}, None, r"its input_shape is '\[32, 32\]'; needed: three sizes of 1 to 65536"),
        ({"input_shape": [32, 1 << 40, 3]}, None, "its input_shape is "),
        ({"input_shape": [65536, 65536, 65536]}, None, "tiny cannot be built from it .the network has [0-9,]+ weights, the file"),
        ({"class_names": []}, None, "its class_names is "),
        ({"class_names": NAMES[:9]}, None, "tiny cannot be built from it .the network has [0-9,]+ weights, the file"),
        ({"preprocessing": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, None, "its preprocessing is .* std above 0"),
        ({"preprocessing": {"mean": [0, 0, 0], "std": [1, 1]}}, None, "its preprocessing is "),
        ({"task": "mnist"}, None, "its task is 'mnist'; needed: one of cifar100"),
        ({"maps": {"stem": [8, 1, 0]}}, None, "its maps is "),
        ({"maps": {"stem": [8, 0, 1]}}, None, "its quantized maps are others than the network has: "),
        ({"overrides": {"rows": "x"}}, None, "tiny cannot be built from it"),
        ({"overrides": {"no": 1}}, None, "tiny cannot be built from it .*unexpected keyword argument 'no'"),
        ({"overrides": {"rows": [1]}}, None, "its overrides is "),
        ({}, {"stem/kernel": None}, "tiny cannot be built from it .the network has [0-9,]+ weights, the file"),
        ({}, {"more/kernel": np.ones(4, np.float16)}, "tiny cannot be built from it .the network has [0-9,]+ weights, the file"),
        ({}, {"stem/kernel": None, "steam/kernel": np.ones((3, 3, 3, 4), np.float16)}, "1 missing .stem/kernel., 1 unknown .steam/"),
        ({}, {"stem/kernel": np.ones((3, 3, 4, 3), np.float16)}, r"'stem/kernel' is \(3, 3, 4, 3\); the network's is \(3, 3, 3, 4\)"),
        ({}, {"stem/kernel": np.ones((3, 3, 3, 4), np.float32)}, "its tensors are of several types .float16, float32."),
    ],
)  # fmt: skip
def test_networks_that_are_none(forge, tmp_path, changed, replaced, expected):
    path = forge(changed, replaced)
    with pytest.raises(PackedError, match=expected) as raised:
        packed.unpack(path, tmp_path / "out")
    assert str(path) in str(raised.value)
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_folders_that_cannot_be_packed(tiny, tmp_path):
    with pytest.raises(export.ExportError, match=r"model_card\.json cannot be read"):
        packed.pack(tmp_path, tmp_path / "f")
    folder = exported(tiny, tmp_path / "m")
    with pytest.raises(PackedError, match=r"cannot write .*; name a file in a folder that is there"):
        packed.pack(folder, tmp_path / "nowhere" / "f")
    card = json.loads((folder / export.CARD).read_text())
    export.write_card(folder, {**card, "name": "mine"})
    with pytest.raises(PackedError, match="its network is 'mine'"):
        packed.pack(folder, tmp_path / "f")
    export.write_card(folder, {key: value for key, value in card.items() if key != "class_names"})
    with pytest.raises(PackedError, match=r"the card of .* lacks 'class_names'"):
        packed.pack(folder, tmp_path / "f")
    export.write_card(folder, card)
    next((folder / "variables").glob("variables.data*")).unlink()
    with pytest.raises(PackedError, match=r"lacks the data of .*; copy its variables/ again"):
        packed.pack(folder, tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_folders_that_are_there(tiny, tmp_path):
    folder = exported(tiny, tmp_path / "m")
    packed.pack(folder, tmp_path / "f")
    with pytest.raises(PackedError, match="m is there already; name another folder"):
        packed.unpack(tmp_path / "f", folder)
    with pytest.raises(PackedError, match=r"cannot read .*nothing: no such file"):
        packed.unpack(tmp_path / "nothing", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "micronet", "tensors", "bits"),
    [
        ("SavedModel", 8_852_840, 29 + 29 * 2 + 2, 16 * (4_426_800 + 4_820 * 2 + 100 * 2)),
        ("zoo/resnet20_cifar10_short", 538_068, 19 + 19 * 4 + 2, 16 * (269_722 - 2 * 688 + 4 * 688)),
        ("zoo/microbotnet_x032_cifar10", 468_500, 181, 16 * (231_842 + 4 * 2_408)),
    ],
)
def test_committed_networks(tmp_path, folder, micronet, tensors, bits):
    """Dense at 16 bits but for tensors of many zeros, which masks make smaller; every BN statistic is there."""
    sizes = packed.pack(ROOT / folder, tmp_path / "f")
    check_sizes(ROOT / folder, tmp_path / "f", sizes)
    assert packed.terms(ROOT / folder, sizes)[0].bits == 8 * micronet
    assert sizes.tensors == tensors
    assert 0.99 * bits < sizes.payload_bits <= bits
    assert packed.verify(tmp_path / "f", ROOT / folder) == 4
