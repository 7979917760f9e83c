"""Random numbers of a seed: TensorFlow's own, the same under XLA, and on replicas the parts of those of the global batch."""

import numpy as np
import pytest
import tensorflow as tf

from frenzy import stateless
from frenzy.data import augment, randomness
from frenzy.data.split import Split
from frenzy.layers import dropout

SEEDS = [tf.constant(pair, tf.int32) for pair in ((1, 2), (-5, 2), (3, -(2**31)), (-1, -1))]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
DRAWS = {
    "integers": lambda count: randomness.integers((count, 2), SEEDS[1], [7, 5]),
    "own_bits": lambda count: stateless.own_bits((count, 3), SEEDS[1]),
    "smaller_share": lambda count: randomness.smaller_share((count, 1), SEEDS[1], 0.4),
    "uniform": lambda count: stateless.uniform((count,), SEEDS[1], -1.0, 1.0),
    "values": lambda count: randomness.values((count * 4,), 3, SEEDS[1]),
}


def parts(draw, count, replicas):
    """What the replicas draw for their parts of `count` images, one after the other."""
    found = []
    for index in range(replicas):
        with stateless.replica(tf.constant(index), replicas):
            found.append(draw(count // replicas).numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("name", DRAWS)
def test_replicas_draw_the_parts_of_the_global_batch(name, replicas):
    np.testing.assert_allclose(parts(DRAWS[name], 12, replicas), DRAWS[name](12), rtol=1e-6)  # powers are rounded by place


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("policy", augment.POLICIES)
def test_images_are_augmented_on_replicas_as_in_one_place(policy, replicas):
    images = np.tile(IMAGES, (1, 4, 4, 1)) if augment.POLICIES[policy].size else IMAGES
    whole = augment.augmented(images, SEEDS[0], policy, Split.mean, Split.std).numpy()
    share = len(images) // replicas
    for index in range(replicas):
        own = slice(index * share, (index + 1) * share)
        with stateless.replica(index, replicas):
            found = augment.augmented(images[own], SEEDS[0], policy, Split.mean, Split.std)
        np.testing.assert_allclose(found, whole[own], atol=1e-5)


def test_on_replicas_mixup_keeps_its_shares_and_its_partners_are_at_hand():
    """x = k_i x_i + (1 - k_i) x_j: with images that are the unit vectors, the targets show k and j."""
    eye = tf.eye(12)
    share = {}
    for replicas in (1, 2):
        for index in range(replicas):
            own = eye[index * 12 // replicas : (index + 1) * 12 // replicas]
            with stateless.replica(index, replicas):
                images, targets = augment.mixup(own[:, :, None, None], own, SEEDS[0], 0.4)
            np.testing.assert_array_equal(images[:, :, 0, 0], targets)
            first = index * 12 // replicas
            assert not np.delete(targets, np.s_[first : first + len(own)], axis=1).any()
            share.setdefault(replicas, []).append(1 - np.max(targets, 1))
    one, two = (np.concatenate(share[replicas]) for replicas in (1, 2))
    mixed = (one > 0) & (two > 0)  # an image may be its own partner
    assert mixed.sum() > 4
    np.testing.assert_allclose(one[mixed], two[mixed], atol=1e-6)


def test_replicas_permute_their_own_images_differently():
    with stateless.replica(0, 2):
        first = randomness.permutation(50, SEEDS[0]).numpy()
    with stateless.replica(1, 2):
        second = randomness.permutation(50, SEEDS[0]).numpy()
    assert sorted(first) == sorted(second) == list(range(50))
    assert np.any(first != second)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_are_tensorflows_own(seed):
    np.testing.assert_array_equal(stateless.uniform((50, 2), seed), tf.random.stateless_uniform((50, 2), seed))
    np.testing.assert_array_equal(stateless.fold_in(seed, 7), tf.random.experimental.stateless_fold_in(seed, 7))


@pytest.mark.parametrize("number", [7, tf.constant(7, tf.int64)])
def test_folding_is_the_same_under_xla(number):
    compiled = tf.function(lambda seed: stateless.bits((20,), stateless.fold_in(seed, number)), jit_compile=True)
    drawn = [stateless.bits((20,), stateless.fold_in(seed, number)).numpy() for seed in SEEDS]
    for seed, numbers in zip(SEEDS, drawn, strict=True):
        np.testing.assert_array_equal(compiled(seed), numbers)
    assert np.mean(drawn[0] != stateless.bits((20,), stateless.fold_in(SEEDS[0], 8))) > 0.9
    assert np.mean(drawn[0] != drawn[1]) > 0.9


def test_xla_keeps_the_part_of_a_replica():
    def draw(index):
        with stateless.replica(index, 2):
            return stateless.uniform((6, 2), SEEDS[1])

    compiled = tf.function(draw, jit_compile=True)
    whole = stateless.uniform((12, 2), SEEDS[1])
    np.testing.assert_array_equal(tf.concat([compiled(tf.constant(0)), compiled(tf.constant(1))], 0), whole)


# dropout


def test_the_seed_and_the_name_give_dropouts_mask():
    layers = {name: dropout.Dropout(0.5, name=name) for name in ("a", "b")}
    x = tf.ones((40, 10))

    def masked(name, seed):
        with stateless.layers_seed(seed):
            return layers[name](x, training=True).numpy()

    first = masked("a", SEEDS[0])
    np.testing.assert_array_equal(first, masked("a", SEEDS[0]))
    assert np.mean(first != masked("a", SEEDS[1])) > 0.3
    assert np.mean(first != masked("b", SEEDS[0])) > 0.3
    assert set(np.unique(first)) == {0, 2}
    np.testing.assert_array_equal(layers["a"](x, training=False), x)


@pytest.mark.parametrize("seed", SEEDS)
def test_dropout_is_the_same_under_xla(seed):
    layer, x = dropout.Dropout(0.3, name="x"), tf.ones((40, 10))

    def masked(seed):
        with stateless.layers_seed(seed):
            return layer(x, training=True)

    np.testing.assert_array_equal(masked(seed) > 0, tf.function(masked, jit_compile=True)(seed) > 0)


def test_dropout_keeps_the_mean():
    x = tf.random.stateless_uniform((400, 100), (0, 1))
    dropped = dropout.drop(x, 0.25, SEEDS[0]).numpy()
    assert np.mean(dropped == 0) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(dropped[dropped > 0], x[dropped > 0] / 0.75, rtol=1e-6)


def test_dropout_on_replicas_is_that_of_the_global_batch():
    x = tf.ones((12, 10))
    masks = parts(lambda count: dropout.drop(x[:count], 0.5, SEEDS[0]), 12, 3)
    np.testing.assert_array_equal(masks, dropout.drop(x, 0.5, SEEDS[0]))


def test_without_a_seed_dropout_is_tf_kerass():
    tf.random.set_seed(0)
    x, layer = tf.ones((400, 10)), dropout.Dropout(0.5)
    assert np.mean(layer(x, training=True) == 0) == pytest.approx(0.5, abs=0.05)
    assert np.mean(layer(x, training=True) != layer(x, training=True)) > 0.3
