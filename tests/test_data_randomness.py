"""Stateless random numbers: their distribution, their independence, and that XLA gives the same."""

import math

import numpy as np
import pytest
import tensorflow as tf

from frenzy.data import randomness

SEEDS = [tf.constant(pair, tf.int32) for pair in ((1, 2), (-5, 2), (3, -(2**31)), (-1, -1))]  # XLA is apt to misread signs
COUNT = 20_000
FUNCTIONS = {
    "integers": lambda seed: randomness.integers((100, 2), seed, [7, 5]),
    "permutation": lambda seed: randomness.permutation(100, seed),
    "smaller_share": lambda seed: randomness.smaller_share((100,), seed, 0.4),
    "split": lambda seed: randomness.split(seed, 3),
    "uniform": lambda seed: randomness.uniform((100,), seed, -2.0, 3.0),
    "values": lambda seed: randomness.values((100,), 3, seed),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_seed_gives_the_same_numbers_with_and_without_xla(name):
    compiled = tf.function(FUNCTIONS[name], jit_compile=True)
    drawn = [FUNCTIONS[name](seed).numpy() for seed in SEEDS]
    for seed, numbers in zip(SEEDS, drawn, strict=True):
        np.testing.assert_allclose(compiled(seed), numbers, rtol=1e-5)
    for other in drawn[1:]:
        assert np.mean(drawn[0] != other) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_they_are_tensorflows_own(seed):
    np.testing.assert_array_equal(randomness.uniform((50, 2), seed), tf.random.stateless_uniform((50, 2), seed))
    np.testing.assert_array_equal(
        randomness.integers((50, 2), seed, 9), tf.random.stateless_uniform((50, 2), seed, 0, 9, tf.int32)
    )
    np.testing.assert_array_equal(randomness.split(seed, 2), tf.random.split(seed, 2))


def test_more_seeds_begin_with_the_same():
    np.testing.assert_array_equal(randomness.split(SEEDS[0], 5)[:2], randomness.split(SEEDS[0], 2))


def test_uniform_and_integers_are_even():
    drawn = randomness.uniform((COUNT,), SEEDS[0], 2.0, 4.0).numpy()
    assert 2 <= drawn.min() < 2.001 < 3.999 < drawn.max() < 4
    np.testing.assert_allclose(np.histogram(drawn, 10, (2, 4))[0] / COUNT, 0.1, atol=0.01)
    drawn = randomness.integers((COUNT, 2), SEEDS[0], [4, 8]).numpy()
    for column, limit in ((0, 4), (1, 8)):
        np.testing.assert_allclose(np.bincount(drawn[:, column], minlength=limit) / COUNT, 1 / limit, atol=0.01)


def test_values_are_even_and_apart():
    drawn = randomness.values((COUNT,), 3, SEEDS[0]).numpy()
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == set(range(256))
    np.testing.assert_allclose(drawn.mean(0), 127.5, atol=2)
    np.testing.assert_allclose(np.corrcoef(drawn.T.astype(float)), np.eye(3), atol=0.03)
    assert randomness.values((7,), 5, SEEDS[0]).shape == (7, 5)


def test_permutations_put_everything_anywhere():
    drawn = np.array([randomness.permutation(8, tf.constant([0, i])).numpy() for i in range(400)])
    assert np.all(np.sort(drawn) == np.arange(8))
    places = np.array([np.bincount(column, minlength=8) for column in drawn.T]) / 400
    np.testing.assert_allclose(places, 1 / 8, atol=0.07)


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 3.0])
def test_shares_have_the_moments_of_beta(alpha):
    """b - 1/2 has the second moment 1 / (4 (2 alpha + 1)) and the fourth 3 / (16 (2 alpha + 1) (2 alpha + 3))."""
    drawn = randomness.smaller_share((200_000,), SEEDS[0], alpha).numpy().astype(np.float64)
    assert 0 <= drawn.min() < drawn.max() <= 0.5
    assert np.mean((drawn - 0.5) ** 2) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)
    assert np.mean((drawn - 0.5) ** 4) == pytest.approx(3 / (16 * (2 * alpha + 1) * (2 * alpha + 3)), rel=0.015)


@pytest.mark.parametrize("place", [1e-4, 0.01, 0.1, 0.3, 0.45])
def test_shares_follow_the_arcsine_law(place):
    """P(b <= x) = 2 / pi asin(sqrt(x)) for alpha = 1/2."""
    drawn = randomness.smaller_share((200_000,), SEEDS[1], 0.5).numpy()
    assert np.mean(drawn <= place) == pytest.approx(2 * 2 / math.pi * math.asin(math.sqrt(place)), abs=4e-3)
