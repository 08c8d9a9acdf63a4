"""Noise that is keyed by (seed, image, position), never by the step of a batch: a token's draw does not depend on what
else is decoded beside it, or on how many tokens a pass handles."""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Integer, Key

from ssd_jax.sampling import threefry

GENERATOR = "threefry2x32"
"""Of all draws, whatever jax's default is set to."""


def image_keys(seeds: Integer[Array, " B"], numbers: Integer[Array, " B"]) -> Key[Array, " B"]:
    """Key of every image: its prompt's seed and its occurrence number among equal prompts of the call."""
    return jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), number))(
        seeds, numbers
    )


class Tag(enum.IntEnum):
    """What a fresh draw is for; draws of one position and pass are independent because their tags differ."""

    ACCEPT = 1
    RESIDUAL = 2
    RESAMPLE = 3
    DRAFT = 4


def position_keys(keys: Key[Array, " B"], positions: Int32[Array, "B W"]) -> Key[Array, "B W"]:
    """key_i of every window position, from image keys."""
    return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(keys, positions)


def fresh_keys(keys: Key[Array, "B W"], tag: Tag, clock: Int32[Array, " B"]) -> Key[Array, "B W"]:
    """Keys of draws that must not repeat, from position keys, what for, and the image's pass count.

    g_i itself may not be used for these: reusing it biases a residual draw, and turns a resample into a coupling.
    """

    def one(key: Key[Array, ""], clock: Int32[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(key, tag), clock)

    return jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, clock)


def gumbel(keys: Key[Array, "B W"], vocabulary: int) -> Float32[Array, "B W V"]:
    """Standard Gumbel noise of every key: what `jax.random.gumbel` draws."""
    tiny = jnp.finfo(jnp.float32).tiny
    return -jnp.log(-jnp.log(jnp.maximum(threefry.unit(threefry.bits(keys, vocabulary)), tiny)))


def uniform(keys: Key[Array, "B W"]) -> Float32[Array, "B W"]:
    """One number in [0, 1) of every key."""
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))(keys)


def uniform_codes(keys: Key[Array, "B W"], vocabulary: int) -> Int32[Array, "B W"]:
    """A uniformly random code of every key."""
    return jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, vocabulary, jnp.int32)))(keys)


def gumbel_noise(keys: Key[Array, " B"], positions: Int32[Array, "B W"], vocabulary: int) -> Float32[Array, "B W V"]:
    """g_i of every window position, from image keys."""
    return gumbel(position_keys(keys, positions), vocabulary)
