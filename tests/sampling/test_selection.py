"""The k-th largest number against a sort: ties, signs, infinities, every k, vocabularies that divide evenly or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.sampling.selection import kth_largest

search = jax.jit(kth_largest)


def expected(x: np.ndarray, k: int) -> np.ndarray:
    return np.sort(x, axis=-1)[..., ::-1][..., k - 1 : k]


@pytest.mark.parametrize("size", [1, 7, 24, 128, 1000, 4100])
def test_it_is_what_a_sort_finds(size):
    x = np.random.default_rng(size).normal(size=(2, 3, size)).astype(np.float32) * 5
    for k in {1, 2, size // 2, size - 1, size} - {0}:
        if k <= size:
            np.testing.assert_array_equal(search(x, k), expected(x, k))


def test_every_k_among_ties():
    x = np.round(np.random.default_rng(0).normal(size=(4, 40)), 1).astype(np.float32)
    for k in range(1, 41):
        np.testing.assert_array_equal(search(x, k), expected(x, k))


@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 9,
        [-np.inf] * 3 + [1.0, 2.0, -1.0],
        [np.inf, 1.0, -np.inf, 1.0],
        [3e38, -3e38, 1e-45, -1e-45, 0.0, 1.0],
        [1.0, np.nextafter(np.float32(1), np.float32(2)), np.nextafter(np.float32(1), np.float32(0))],
    ],
)
def test_unusual_numbers(row):
    x = np.array([row], np.float32)
    for k in range(1, len(row) + 1):
        np.testing.assert_array_equal(search(x, k), expected(x, k))


def test_the_trip_count_is_fixed_and_nothing_is_sorted():
    hlo = search.lower(jnp.zeros((2, 64)), 3).compile().as_text()
    assert " sort(" not in hlo
    assert hlo.count("known_trip_count") == 2
