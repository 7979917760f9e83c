"""Batches: the order that a seed gives, wherever an epoch is entered and however it is shared out."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from frenzy.data.pipeline import batches, epoch_order, evaluation_batches, steps_an_epoch
from frenzy.data.split import DataError, make

COUNT = 50


def numbered(count=COUNT):
    """Images that are full of their own number, which is their label too."""
    labels = np.arange(count)
    return make(np.broadcast_to(labels[:, None, None, None], (count, 4, 4, 3)).astype(np.uint8), labels, ("a",) * count)


def labels_of(dataset):
    """The labels of every batch; each image must be the one of its label."""
    found = []
    for images, labels, *_ in dataset.as_numpy_iterator():
        np.testing.assert_array_equal(images, np.broadcast_to(labels[:, None, None, None], images.shape))
        found.append(labels.tolist())
    return found


def test_an_epoch_follows_its_permutation():
    order = epoch_order(3, 2, COUNT)
    assert sorted(order) == list(range(COUNT))
    np.testing.assert_array_equal(order, np.random.default_rng((3, 2)).permutation(COUNT))
    assert labels_of(batches(numbered(), 8, 3, 2)) == [order[8 * i : 8 * i + 8].tolist() for i in range(6)]


@pytest.mark.parametrize("other", [(3, 3), (4, 2)])
def test_seed_and_epoch_change_the_order(other):
    assert np.mean(epoch_order(3, 2, COUNT) == epoch_order(*other, COUNT)) < 0.2


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_every_image_comes_once(drop_remainder):
    found = labels_of(batches(numbered(), 8, 0, 0, drop_remainder=drop_remainder))
    assert [len(batch) for batch in found] == [8] * 6 + ([] if drop_remainder else [2])
    seen = [label for batch in found for label in batch]
    assert len(set(seen)) == len(seen) == (48 if drop_remainder else 50)


@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_an_epoch_is_entered_anywhere(start):
    assert labels_of(batches(numbered(), 8, 1, 1, start)) == labels_of(batches(numbered(), 8, 1, 1))[start:]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_see_together_what_one_process_sees(shards):
    parts = [labels_of(batches(numbered(), 8, 1, 1, shards=shards, shard=shard)) for shard in range(shards)]
    together = [list(itertools.chain(*step)) for step in zip(*parts, strict=True)]
    assert together == labels_of(batches(numbered(), 8, 1, 1))


def test_the_index_leads_back():
    split = numbered()
    for images, _, index in batches(split, 8, 0, 0, index=True).as_numpy_iterator():
        np.testing.assert_array_equal(images, split.images[index])


def test_shapes_are_static_where_they_can_be():
    images, labels = batches(numbered(), 8, 0, 0, shards=2).element_spec
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((4, 4, 4, 3), tf.uint8, (4,), tf.int32)
    assert batches(numbered(), 8, 0, 0, drop_remainder=False).element_spec[0].shape.as_list() == [None, 4, 4, 3]
    assert evaluation_batches(numbered(), 10).element_spec[0].shape.as_list() == [10, 4, 4, 3]


@pytest.mark.parametrize("batch_size", [1, 8, 25, 50, 64])
def test_evaluation_leaves_no_image_out(batch_size):
    found = labels_of(evaluation_batches(numbered(), batch_size))
    assert list(itertools.chain(*found)) == list(range(COUNT))
    assert len(found) == steps_an_epoch(COUNT, batch_size, drop_remainder=False) == -(-COUNT // batch_size)


BAD = {
    "too large": ({"batch_size": 51}, "batch_size 51 is above the 50 images"),
    "none": ({"batch_size": 0}, "batch_size 0, shard 0 of 1"),
    "uneven": ({"shards": 3}, "batch_size 8, shard 0 of 3: whole shards"),
    "no such shard": ({"shards": 2, "shard": 2}, "batch_size 8, shard 2 of 2"),
    "partial shards": ({"shards": 2, "drop_remainder": False}, "2 shards of a last partial batch would differ in size"),
    "no such step": ({"start": 7}, "no step 7 in an epoch of 6; take 0 to 6"),
}


@pytest.mark.parametrize("case", BAD)
def test_sizes_that_do_not_fit(case):
    arguments, message = BAD[case]
    with pytest.raises(DataError, match=message):
        batches(numbered(), **{"batch_size": 8, "seed": 0, "epoch": 0, **arguments})


def test_an_evaluation_needs_a_batch_size():
    with pytest.raises(DataError, match="batch_size 0; it must be 1 or more"):
        evaluation_batches(numbered(), 0)


DISTRIBUTED = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
from frenzy.data.pipeline import batches
from frenzy.data.split import make

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
split = make(np.zeros((50, 2, 2, 3), np.uint8), np.arange(50), ("a",) * 50)
parts = [batches(split, 8, 1, 1, shards=2, shard=shard).as_numpy_iterator() for shard in range(2)]
for (_, labels), *ours in zip(strategy.experimental_distribute_dataset(batches(split, 8, 1, 1)), *parts, strict=True):
    for replica, (_, expected) in zip(strategy.experimental_local_results(labels), ours, strict=True):
        np.testing.assert_array_equal(replica, expected)
"""


@pytest.mark.slow
def test_replicas_of_a_strategy_get_the_shards():
    """In a process of its own, since devices are divided before TensorFlow starts."""
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
