"""Parts of a split: hold-outs that a seed fixes, the first images, centres; and checksums that tell them apart."""

import hashlib

import numpy as np
import pytest

from frenzy.data.split import DataError, Split, crop, head, hold_out, make


def numbered(sizes, side=4):
    """Images whose first pixel counts from 0, of classes of these sizes, mixed."""
    labels = np.random.default_rng(9).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = np.zeros((len(labels), side, side, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return make(images, labels, tuple(map(str, range(len(sizes)))), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


def test_the_checksum_is_over_images_and_labels():
    split = numbered((3, 3))
    assert split.sha256 == hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()
    assert split.labels.dtype == np.int32


def test_four_arguments_make_a_split():
    split = Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32), ("a",), "made up")
    assert (split.mean, split.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("count", [10, 13, 99])
def test_a_hold_out_and_the_rest_are_everything(seed, count):
    split = numbered((10,) * 10)
    rest, held = hold_out(split, count, seed)
    assert sorted(numbers(rest) + numbers(held)) == numbers(split)
    assert len(held.images) == count
    shares = np.bincount(held.labels, minlength=10)
    assert shares.max() - shares.min() <= 1
    for part in (rest, held):
        assert numbers(part) == sorted(numbers(part))
        np.testing.assert_array_equal(part.labels, split.labels[numbers(part)])
        assert (part.class_names, part.mean, part.std) == (split.class_names, split.mean, split.std)
        assert part.sha256 == make(part.images, part.labels, ()).sha256
    assert rest.sha256 != held.sha256


def test_the_seed_says_which_are_held_out():
    split = numbered((10,) * 10)
    first, again, other = (numbers(hold_out(split, 30, seed)[1]) for seed in (3, 3, 4))
    assert first == again
    assert len(set(first) & set(other)) < 20  # 9 are expected
    assert set(numbers(hold_out(split, 20, 3)[1])) < set(first)


def test_unequal_classes_give_their_share():
    _, held = hold_out(numbered((60, 30, 9, 1)), 10)
    assert np.bincount(held.labels, minlength=4).tolist() == [6, 3, 1, 0]


@pytest.mark.parametrize("count", [-1, 0, 20, 21])
def test_hold_outs_that_leave_nothing(count):
    with pytest.raises(DataError, match=f"a hold-out of {count} out of 20 images; take 1 to 19"):
        hold_out(numbered((10, 10)), count)


def test_the_head():
    split = numbered((5, 5))
    assert numbers(head(split, 3)) == [0, 1, 2]
    assert head(split, 3).sha256 != split.sha256
    assert head(split, 10) is head(split, 11) is split
    with pytest.raises(DataError, match="the first 0 images are none"):
        head(split, 0)


def test_the_centre():
    split = make(np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3), np.zeros(2), ("a",))
    assert crop(split, None) is crop(split, 5) is split
    np.testing.assert_array_equal(crop(split, 3).images, split.images[:, 1:4, 1:4])
    np.testing.assert_array_equal(crop(split, 2).images, split.images[:, 1:3, 1:3])
    for size in (0, 6):
        with pytest.raises(DataError, match=f"image_size {size}: the images are 5x5; take 1 to 5"):
            crop(split, size)
