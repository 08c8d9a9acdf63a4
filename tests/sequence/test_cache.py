"""Writing a window to the cache: each batch row at its own slots, nothing else changed, nothing past the end."""

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.sequence import cache

B, W, K, T, H = 2, 3, 2, 6, 4


def filled() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(B, K, T, H)).astype(np.float32)


def window() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(B, W, K, H)).astype(np.float32)


def test_a_new_cache_is_zero_and_has_one_array_per_layer():
    spec = cache.CacheSpec(3, B, K, T, H, jnp.float32)
    empty, shapes = spec.zeros(), spec.abstract()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), empty) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert empty.length == T
    assert [array.shape for array in empty.keys + empty.values] == [(B, K, T, H)] * 6
    assert not any(array.any() for array in empty.keys + empty.values)


def test_rows_are_written_at_their_own_slots():
    slots = np.array([[0, 1, 2], [3, 5, 4]])
    expected = filled()
    for row in range(B):
        for place in range(W):
            expected[row, :, slots[row, place]] = window()[row, place]
    np.testing.assert_array_equal(cache.write(jnp.asarray(filled()), window(), jnp.asarray(slots)), expected)


def test_slots_past_the_end_are_dropped():
    slots = np.array([[4, 5, 6], [5, 6, 100]])
    expected = filled()
    expected[0, :, 4], expected[0, :, 5], expected[1, :, 5] = window()[0, 0], window()[0, 1], window()[1, 0]
    np.testing.assert_array_equal(cache.write(jnp.asarray(filled()), window(), jnp.asarray(slots)), expected)


def test_the_cache_keeps_its_dtype():
    written = cache.write(jnp.zeros((B, K, T, H), jnp.bfloat16), window(), jnp.zeros((B, W), jnp.int32))
    assert written.dtype == jnp.bfloat16
