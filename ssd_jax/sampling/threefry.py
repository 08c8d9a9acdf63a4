"""Jax's default random generator (Threefry-2x32, 20 rounds, doi 10.1145/2063384.2063405) with its rounds unrolled.

The bits equal those of `jax.random.bits`. On CPU jax keeps the rounds in a loop, so every number goes through memory
many times; unrolled, they fuse with the code that uses them into one vectorised loop. This is for large arrays only:
keys are few, and unrolling `fold_in` would repeat it for every number and take minutes to compile.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def bits(keys: Key[Array, "*batch"], count: int) -> UInt32[Array, "*batch {count}"]:
    """`jax.random.bits(key, (count,))` for every key; keys are of jax's default kind."""
    data = jax.random.key_data(keys)
    first, second = data[..., 0, None], data[..., 1, None]
    schedule = (first, second, first ^ second ^ jnp.uint32(PARITY))
    y = jax.lax.broadcasted_iota(jnp.uint32, (*keys.shape, count), keys.ndim) + second
    x = jnp.broadcast_to(first, y.shape)
    for block in range(5):
        for distance in ROTATIONS[block % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x, y = x + schedule[(block + 1) % 3], y + schedule[(block + 2) % 3] + jnp.uint32(block + 1)
    return x ^ y


def unit(words: UInt32[Array, "*batch"]) -> Float32[Array, "*batch"]:
    """Numbers in [0, 1), as from `jax.random.uniform`: the upper 23 bits become the mantissa."""
    one = jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type((words >> jnp.uint32(9)) | one, jnp.float32) - 1.0
