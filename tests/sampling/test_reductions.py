"""Sums, maxima, softmax and root mean square against NumPy, on axes that are split and on others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.sampling.reductions import PARTS, inverse_rms, largest, softmax, total

SIZES = [1, PARTS - 1, PARTS, 24, 100, 256]


def numbers(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(3, 2, size)).astype(np.float32) * 4


@pytest.mark.parametrize("size", SIZES)
def test_they_are_what_numpy_finds(size):
    x = numbers(size)
    np.testing.assert_allclose(total(x), x.astype(np.float64).sum(-1, keepdims=True), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(largest(x), x.max(-1, keepdims=True))
    expected = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(inverse_rms(x, 1e-5), expected, rtol=1e-5)
    np.testing.assert_allclose(softmax(x), jax.nn.softmax(x, axis=-1), rtol=1e-5, atol=1e-7)


def test_gradients_of_softmax():
    x, weights = numbers(24), numbers(24)[::-1]
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(f(x) * weights))(x) for f in (softmax, jax.nn.softmax))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_masked_row_is_even():
    np.testing.assert_array_equal(softmax(jnp.full((1, 8), -1e30)), np.full((1, 8), 0.125))
