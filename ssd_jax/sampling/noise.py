"""Noise that is keyed by (seed, image, position), never by the step of a batch: a token's draw does not depend on what
else is decoded beside it, or on how many tokens a pass handles."""

import enum

import jax
import jax.numpy as jnp

from ssd_jax.sampling import threefry

GENERATOR = "threefry2x32"
"""Of all draws, whatever jax's default is set to."""


def image_keys(seeds: jax.Array, numbers: jax.Array) -> jax.Array:
    """Key of every image, [B]: its prompt's seed and its occurrence number among equal prompts of the call."""
    return jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), number))(
        seeds, numbers
    )


class Tag(enum.IntEnum):
    """What a fresh draw is for; draws of one position and pass are independent because their tags differ."""

    ACCEPT = 1
    RESIDUAL = 2
    RESAMPLE = 3
    DRAFT = 4


def position_keys(keys: jax.Array, positions: jax.Array) -> jax.Array:
    """key_i of every window position, keys [B, W]; image keys [B], positions int32 [B, W]."""
    return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(keys, positions)


def fresh_keys(keys: jax.Array, tag: Tag, clock: jax.Array) -> jax.Array:
    """Keys [B, W] of draws that must not repeat: position keys [B, W], what for, and the image's pass count [B].

    g_i itself may not be used for these: reusing it biases a residual draw, and turns a resample into a coupling.
    """

    def one(key: jax.Array, clock: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, tag), clock)

    return jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, clock)


def gumbel(keys: jax.Array, vocabulary: int) -> jax.Array:
    """Standard Gumbel noise, float32 [B, W, V], of keys [B, W]: what `jax.random.gumbel` draws."""
    tiny = jnp.finfo(jnp.float32).tiny
    return -jnp.log(-jnp.log(jnp.maximum(threefry.unit(threefry.bits(keys, vocabulary)), tiny)))


def uniform(keys: jax.Array) -> jax.Array:
    """One number in [0, 1) of every key, float32 [B, W]."""
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))(keys)


def uniform_codes(keys: jax.Array, vocabulary: int) -> jax.Array:
    """A uniformly random code of every key, int32 [B, W]."""
    return jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, vocabulary, jnp.int32)))(keys)


def gumbel_noise(keys: jax.Array, positions: jax.Array, vocabulary: int) -> jax.Array:
    """g_i of every window position, float32 [B, W, V]; keys [B], positions int32 [B, W]."""
    return gumbel(position_keys(keys, positions), vocabulary)
