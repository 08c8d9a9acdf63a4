"""The written-out generator draws what jax.random draws, bit for bit: keys, numbers, and the noise made of them."""

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.sampling import threefry
from ssd_jax.sampling.noise import Tag, fresh_keys, gumbel, image_keys, position_keys, uniform

SEEDS = jnp.array([0, 7, 2**32 - 1], jnp.uint32)
NUMBERS = jnp.array([0, 3, 1])
POSITIONS = jnp.array([[0, 1, 5000], [8099, 2, 2], [3, 4, 5]])
CLOCK = jnp.array([1, 9, 300])


def words(keys) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def jax_keys(place: tuple[int, int], *data: int):
    """key_i of a place in POSITIONS, and what is folded into it further, by jax.random alone."""
    row, column = place
    key = jax.random.key(SEEDS[row])
    for value in (NUMBERS[row], POSITIONS[row, column], *data):
        key = jax.random.fold_in(key, value)
    return key


def test_keys():
    keys = position_keys(image_keys(SEEDS, NUMBERS), POSITIONS)
    fresh = fresh_keys(keys, Tag.RESIDUAL, CLOCK)
    for row, column in np.ndindex(3, 3):
        np.testing.assert_array_equal(words(keys[row, column]), words(jax_keys((row, column))))
        expected = jax_keys((row, column), Tag.RESIDUAL, CLOCK[row])
        np.testing.assert_array_equal(words(fresh[row, column]), words(expected))


def test_numbers():
    keys = position_keys(image_keys(SEEDS, NUMBERS), POSITIONS)
    bits, noise, chance = threefry.bits(keys, 33), gumbel(keys, 1000), uniform(keys)
    for place in ((0, 2), (1, 0), (2, 2)):
        key = jax_keys(place)
        np.testing.assert_array_equal(bits[place], jax.random.bits(key, (33,)))
        np.testing.assert_array_equal(chance[place], jax.random.uniform(key, ()))
        np.testing.assert_allclose(noise[place], jax.random.gumbel(key, (1000,)), rtol=1e-6, atol=1e-6)


def test_the_smallest_number_has_finite_noise():
    """A mantissa of zeros is the smallest positive number, as in jax.random.gumbel, not log 0."""
    assert threefry.unit(jnp.uint32(511)) == 0.0
    assert threefry.unit(jnp.uint32(2**32 - 1)) == 1.0 - 2.0**-23
