"""Makes sampling noise keyed by (seed, image, position), never by decoding step: a token's draw depends neither on the
rest of the batch nor on how many tokens a pass handles."""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Integer, Key

from ssd_jax.sampling import threefry

GENERATOR = "threefry2x32"
"""The generator of all draws, whatever jax's default is set to."""


def image_keys(seeds: Integer[Array, " B"], numbers: Integer[Array, " B"]) -> Key[Array, " B"]:
    """Key of every image, from its prompt's seed and its number among equal prompts of the call."""
    return jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), number))(
        seeds, numbers
    )


class Tag(enum.IntEnum):
    """The purpose of a fresh draw; draws of one position and pass are independent because their tags differ."""

    ACCEPT = 1
    RESIDUAL = 2
    RESAMPLE = 3
    DRAFT = 4
    BRANCH = 5
    SIBLING = 6


def position_keys(keys: Key[Array, " B"], positions: Int32[Array, "B W"]) -> Key[Array, "B W"]:
    """key_i of every window position, from image keys."""
    return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(keys, positions)


def fresh_keys(keys: Key[Array, "B W"], tag: Tag, pass_index: Int32[Array, " B"]) -> Key[Array, "B W"]:
    """Keys of draws that must not repeat, from position keys, the draw's purpose and the image's pass index.

    g_i itself may not be used for these: reusing it biases a residual draw, and turns a resample into a coupling.
    """

    def one(key: Key[Array, ""], pass_index: Int32[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(key, tag), pass_index)

    return jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, pass_index)


def gumbel(keys: Key[Array, "B W"], vocabulary: int) -> Float32[Array, "B W V"]:
    """Standard Gumbel noise for every key, equal to `jax.random.gumbel`."""
    tiny = jnp.finfo(jnp.float32).tiny
    return -jnp.log(-jnp.log(jnp.maximum(threefry.unit(threefry.bits(keys, vocabulary)), tiny)))


def uniform(keys: Key[Array, "B W"]) -> Float32[Array, "B W"]:
    """One uniform number in [0, 1) for every key."""
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))(keys)


def uniform_codes(keys: Key[Array, "B W"], vocabulary: int) -> Int32[Array, "B W"]:
    """A uniformly random code for every key."""
    return jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, vocabulary, jnp.int32)))(keys)


def gumbel_noise(keys: Key[Array, " B"], positions: Int32[Array, "B W"], vocabulary: int) -> Float32[Array, "B W V"]:
    """g_i of every window position, from image keys."""
    return gumbel(position_keys(keys, positions), vocabulary)
