"""Packed files: as large as they are said to be, and nothing believed that a SHA-256 does not hold."""

import json

import numpy as np
import pytest
import safetensors.numpy

from frenzy.accounting.contents import distinct, even_grid
from frenzy.accounting.conventions.forms import whole_form
from frenzy.packed import PackedError
from frenzy.packed.codes import Source, bits_of, code_of, codes_of, decode, encode
from frenzy.packed.container import digest, dump, load

RANDOM = np.random.default_rng(0)
N = 60


def few(values, zeros=0, count=N, dtype=np.float16):
    array = np.resize(np.array(values, dtype), count)
    array[:zeros] = 0
    return RANDOM.permutation(array)


# Even grids


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ([0.25 * k for k in (-3, -1, 0, 2)], (0.25, 4, 3)),  # two's complement of 3 bits: -4..3
        ([0.25 * k for k in range(-128, 128)], (0.25, 128, 8)),
        ([0.25 * k for k in (4, 5, 6, 7)], (0.25, -4, 2)),  # a zero point: 4..7 in 2 bits
        ([-1.5, -0.5, 0.5, 1.5], (1.0, 1.5, 2)),  # zero lies between two points
        ([0.25 * k for k in (0, 3, 6)], (0.75, 0, 2)),
        ([0.25 * k for k in range(-128, 129)], None),  # more than 256 values are not told
        ([0.25 * k for k in (-200, 1, 3, 200)], None),  # 401 points take 9 bits
        ([0.5, -0.25, 0], None),  # signs and zero: two scales
        ([0.5], None),
        ([1.0, 1.3, 1.9, 1.97], None),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_even_grids(values, grid, dtype):
    found = distinct(np.array(values, dtype))
    made = even_grid(found, 8 * np.dtype(dtype).itemsize) if found else None
    assert (made and (made.step, made.zero, made.bits)) == grid


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 16), (np.float32, 32)])
@pytest.mark.parametrize("step", [0.0131, 0.7, 3e-3])
def test_an_even_grid_is_what_the_type_computes(dtype, bits, step):
    """float16(step k) and float32(step k), rounded as they are; one value a bit off is no grid."""
    values = dtype(step) * np.arange(-127, 128).astype(dtype)
    grid = even_grid(distinct(values), bits)
    assert (grid.step, grid.bits, grid.centred) == (float(dtype(step)), 8, True)
    assert np.array_equal(grid.values(grid.codes(values), bits), values)
    values[200] = np.nextafter(values[200], dtype(10))
    assert even_grid(distinct(values), bits) is None


# Forms

APART = [-31, -30, -28, -25, -21, -16, -11, -7, -4, -2, 1, 3, 6, 10, 15, 19, 23, 26, 29, 30]
FORMS = {
    # tensor -> the form as the accountant names it and as the file does, and its bits
    "random": (RANDOM.normal(size=N).astype(np.float16), "dense, 16 bits", "d16", 16 * N),
    "float32": (RANDOM.normal(size=N).astype(np.float32), "dense, 32 bits", "d32", 32 * N),
    "one number": (np.float16([[3]]).reshape(()), "dense, 16 bits", "d16", 16),
    "zeros": (np.zeros(N, np.float16), "mask + 16 bits", "md16", N),
    "sparse": (few(RANDOM.normal(size=N), 50), "mask + 16 bits", "md16", N + 16 * 10),
    "five values": (few([0.1, 0.35, -0.7, 1.2, -0.9]), "3 bits + 5 values", "c16.5", 3 * N + 5 * 16),
    "sparse codes": (few([0.1, 0.35, -0.7, 1.2], 50), "mask + 2 bits + 4 values", "mc16.4", N + 2 * 10 + 4 * 16),
    "ternary": (few([0.5, -0.25], 10), "mask + 1 bit + 2 values", "mc16.2", N + 50 + 2 * 16),
    "a mask of one value": (few([0.5], 50), "mask + 1 value", "mc16.1", N + 16),
    "signs": (few([0.5, -0.5]), "1 sign bit + 1 scale", "s16", N + 16),
    "+1, -1, 0": (few([1, -1], 50, dtype=np.float32), "mask + 1 sign bit + 1 scale", "ms32", N + 10 + 32),
    "even grid": (few(0.03125 * np.arange(-30, 30)), "6 bits + 1 step", "g16.6", 6 * N + 16),
    "a zero point": (few(0.03125 * np.arange(30, 60)), "5 bits + 1 step + 1 zero point", "g16.5z", 5 * N + 32),
    "sparse even grid": (np.float16(0.03125 * np.array(APART + [0] * 40)), "mask + 6 bits + 1 step", "mg16.6", N + 6 * 20 + 16),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_tensor_takes_what_its_form_says(case):
    array, text, word, bits = FORMS[case]
    coded = encode(array)
    nonzero = np.count_nonzero(array)
    assert whole_form(array).text == text
    assert coded.code.word == word
    assert code_of(word) == coded.code
    assert coded.numbers.size * coded.code.number_bits + coded.bits.size == bits
    assert whole_form(array).bits(array.size, nonzero) == bits
    sources = Source(coded.numbers), Source(np.packbits(coded.bits, bitorder="little"))
    back = decode(coded.code, array.size, *sources).reshape(array.shape)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert [source.left for source in sources] == [0, 0]


def test_negative_zeros_become_zeros():
    array = np.array([-0.0, 1.5, 0.0, -2.25, 0.75] * 12, np.float16)
    _, tensors = load(dump({}, {"a/kernel": array})[0])
    assert np.array_equal(tensors["a/kernel"], array)
    assert not np.signbit(tensors["a/kernel"][array == 0]).any()


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_bits(width):
    codes = RANDOM.integers(0, 2**width, 37)
    assert bits_of(codes, width).size == 37 * width
    assert np.array_equal(codes_of(bits_of(codes, width), width), codes)
    assert bits_of(np.array([6]), 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "word", ["", "x16", "d8", "d16.2", "c16", "c16.1", "c16.257", "g16.9", "g16", "s16z", "c16.3z", "md64"]
)
def test_forms_that_are_none(word):
    with pytest.raises(PackedError, match=f"form '{word}' is none"):
        code_of(word)


# Files


def tensors():
    return {
        "stem/kernel": FORMS["random"][0].reshape(3, 4, 5),
        "block1/kernel": FORMS["five values"][0].reshape(6, 10),
        "block1_bn/beta": np.zeros(10, np.float16),
        "block1_bn/gamma": FORMS["sparse codes"][0][:10],
        "block2/kernel": FORMS["even grid"][0].reshape(12, 5),
        "block3/kernel": FORMS["ternary"][0],
        "block4/kernel": FORMS["signs"][0].reshape(60, 1),
        "logits/bias": FORMS["float32"][0],
    }


FACTS = {"network": "x", "names": ["é", '"quoted"'], "scale": 0.1}


def same(found, expected):
    return list(found) == sorted(expected) and all(
        found[name].dtype == each.dtype and found[name].shape == each.shape and np.array_equal(found[name], each)
        for name, each in expected.items()
    )


def test_a_file_holds_what_was_given_and_nothing_else():
    data, sizes = dump(FACTS, tensors())
    facts, found = load(data)
    assert facts == FACTS
    assert same(found, tensors())
    assert data == dump(FACTS, dict(reversed(tensors().items())))[0]
    assert sizes.file_bytes == len(data)
    assert sizes.payload_bits <= 8 * sizes.payload_bytes < sizes.payload_bits + 8 * sizes.tensors


def test_other_programs_read_it():
    arrays = safetensors.numpy.load(dump(FACTS, tensors())[0])
    assert {name: (array.dtype.name, array.ndim) for name, array in arrays.items()} == {
        "float16": ("float16", 1),
        "float32": ("float32", 1),
        "codes": ("uint8", 1),
    }
    assert np.array_equal(arrays["float32"], tensors()["logits/bias"])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.float16([1, np.nan]), "tensor a/b: it holds values that are no finite numbers"),
        (np.float32([1, np.inf]), "tensor a/b: it holds values that are no finite numbers"),
        (np.arange(3), "tensor a/b: it holds int64; float16 and float32 alone are packed"),
    ],
)
def test_tensors_that_cannot_be_packed(array, expected):
    with pytest.raises(PackedError, match=expected):
        dump({}, {"a/b": array})


def test_names_that_cannot_be_packed():
    with pytest.raises(PackedError, match="tensor 'a b': names are layer/weight"):
        dump({}, {"a b": np.ones(2, np.float16)})
    with pytest.raises(PackedError, match="fact 'layers' has a name that the format itself needs"):
        dump({"layers": 1}, {})


def parts(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, payload):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def forged(change, payload=lambda bytes_: bytes_):
    """A file whose metadata are changed, with the SHA-256 that they then have."""
    header, content = parts(dump(FACTS, tensors())[0])
    metadata = json.loads(header["__metadata__"]["frenzy"])
    del metadata["sha256"]
    change(metadata)
    text = json.dumps(metadata, separators=(",", ":"), ensure_ascii=False)
    header["__metadata__"]["frenzy"] = f'{text[:-1]},"sha256":"{digest(text.encode())}"}}'
    return join(header, payload(content))


def line(layer, *replaced):
    def change(metadata):
        assert replaced[0] in metadata["layers"][layer]
        metadata["layers"][layer] = metadata["layers"][layer].replace(*replaced, 1)

    return change


def drop(layer):
    return lambda metadata: metadata["layers"].pop(layer)


def outer(change):
    """A file whose safetensors header is changed."""
    header, content = parts(dump(FACTS, tensors())[0])
    header = change(header) or header
    return join(header, content)


def twice(header):
    return (
        json.dumps(header)
        .replace('"float16"', '"codes": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "float16"')
        .encode()
    )


def entry(name, **changes):
    return lambda header: header[name].update(changes)


GOOD = dump(FACTS, tensors())[0]
HOSTILE = {
    "empty": (b"", "it is no safetensors file"),
    "text": (b"# Frenzy\n" * 30, "it is no safetensors file"),
    "header beyond the file": ((1 << 40).to_bytes(8, "little") + GOOD[8:], "no safetensors file .*large"),
    "truncated header": (GOOD[:100], "it is damaged or truncated"),
    "truncated": (GOOD[:-1], "it is damaged or truncated"),
    "trailing": (GOOD + b"\0", "it is damaged or truncated"),
    "overlap": (outer(entry("float16", data_offsets=[0, 166])), "it is no safetensors file"),
    "shape that overflows": (outer(entry("codes", shape=[2**63, 4])), "it is no safetensors file"),
    "a name twice": (outer(twice), "header is no JSON .a name stands there twice"),
    "another type": (outer(entry("codes", dtype="I8")), r"array 'codes' is I8 \[\d+\]; allowed are flat ones"),
    "another array": (outer(lambda h: h.update(extra=h.pop("codes"))), "array 'extra' is U8"),
    "no metadata": (outer(lambda h: h.pop("__metadata__") and None), "its metadata are not those of a packed network"),
    "metadata no JSON": (outer(lambda h: h["__metadata__"].update(frenzy="{")), "its metadata is no JSON"),
    "metadata of another format": (outer(lambda h: h["__metadata__"].update(frenzy='{"format":2}')), "its format is '2'; this version"),
    "metadata not an object": (outer(lambda h: h["__metadata__"].update(frenzy="[1]")), "its format is 'None'"),
    "metadata deep": (outer(lambda h: h["__metadata__"].update(frenzy="[" * 100_000)), "its metadata is no JSON"),
    "metadata changed": (GOOD.replace(b"0.1", b"0.2"), "the SHA-256 of its metadata is another"),
    "no layers": (forged(lambda m: m.pop("layers")), "its metadata lack layers"),
    "layers a list": (forged(lambda m: m.update(layers=[])), 'its "weights" and "layers" are no lists of words'),
    "no such list": (forged(line("block1", "2 ", "9 ")), "layer block1: '9' names none of its"),
    "too few words": (forged(line("block1", " c16.5", "")), "tensor block1/kernel: it has no shape, form and SHA-256"),
    "too many words": (forged(lambda m: m["layers"].update(stem=m["layers"]["stem"] + " d16 x")), "layer stem describes more tensors"),
    "unknown form": (forged(line("block1", "c16.5", "c16.500")), "tensor block1/kernel: form 'c16.500' is none"),
    "code out of range": (forged(line("block1", "c16.5", "c32.5")), "tensor block1/kernel: "),
    "shape too large": (
        forged(line("stem", "3x4x5", "9999999999x9999999999")), "tensor stem/kernel: its shape .* asks for .* more than the file holds"
    ),
    "another shape": (forged(line("stem", "3x4x5", "3x4x4")), "stem/kernel: its SHA-256 is another|block|is another"),
    "another SHA-256": (forged(line("stem", digest(tensors()["stem/kernel"].tobytes()), "x" * 43)), "tensor stem/kernel: its SHA-256"),
    "a tensor less": (forged(drop("stem")), "elements of float16 belong to no tensor"),
    "payload": (forged(lambda m: None, lambda content: content[:-1] + bytes([content[-1] ^ 1])), "tensor .*: "),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case):
    data, expected = HOSTILE[case]
    with pytest.raises(PackedError, match=expected) as raised:
        load(data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("word", "numbers", "bits", "expected"),
    [
        ("c16.5", [1, 2, 3, 4, 5], [7, 0], "code 7 is out of range: there are 5 values"),
        ("s16", [np.inf], [0, 1], r"its numbers are not finite \(inf\)"),
        ("g16.8", [np.nan], [0, 1], r"its numbers are not finite \(nan\)"),
        ("g16.8", [60000], [1, 130], "its even grid of step 59,?[0-9]* leaves float16|leaves float16"),
        ("c16.5", [1, 2], [0, 0], "5 more of float16 are needed and 2 are left; the file is truncated"),
        ("d16", [1], [], "2 more of float16 are needed and 1 are left"),
    ],
)
def test_tensors_that_no_form_makes(word, numbers, bits, expected):
    code = code_of(word)
    stream = np.packbits(bits_of(np.array(bits, np.int64), code.width), bitorder="little")
    with pytest.raises(PackedError, match=expected):
        decode(code, 2, Source(np.array(numbers, np.float16)), Source(stream))


def test_bits_behind_the_last_code():
    with pytest.raises(PackedError, match="the bits behind its last code are not 0"):
        decode(code_of("s16"), 2, Source(np.float16([1])), Source(np.uint8([0b100])))


def test_any_damage_is_refused_or_harmless():
    """Bytes flipped, cut off, inserted at 600 seeded places: the project's own error, or the very same network."""
    random = np.random.default_rng(1)
    refused = 0
    for number in range(600):
        data = bytearray(GOOD)
        place = int(random.integers(len(data)))
        if number % 3 == 0:
            data[place] ^= int(random.integers(1, 256))
        elif number % 3 == 1:
            del data[place : place + int(random.integers(1, 100))]
        else:
            data[place:place] = random.bytes(int(random.integers(1, 9)))
        try:
            facts, found = load(bytes(data))
        except PackedError:
            refused += 1
            continue
        assert facts == FACTS
        assert same(found, tensors())
    assert refused > 590
