"""Draws a code from a distribution by Gumbel-max."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

NONE = -1
"""Marks a code that does not exist."""


def choose(log_p: Float[Array, "*#batch V"], noise: Float[Array, "*batch V"]) -> Int32[Array, "*batch"]:
    """argmax(log p + g), the Gumbel-max draw from p; the lowest id wins a tie."""
    return most_likely(log_p + noise)


def most_likely(values: Float[Array, "*batch V"]) -> Int32[Array, "*batch"]:
    """argmax over the last axis; the lowest id wins a tie.

    Uses two plain reductions, because the indexed reduction of `jnp.argmax` is not vectorised on CPU.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    best = jnp.max(values, axis=-1, keepdims=True)
    return jnp.min(jnp.where(values == best, ids, values.shape[-1] - 1), axis=-1)


def without(values: Float32[Array, "*places V"], codes: Int32[Array, "*places"]) -> Float32[Array, "*places V"]:
    """The values, -inf for one code of every place."""
    ids = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return jnp.where(ids == codes[..., None], -jnp.inf, values)


def best_others(
    values: Float32[Array, "*places V"], codes: Int32[Array, "*places"], count: int
) -> Int32[Array, "*places {count}"]:
    """The `count` codes of the largest values but for one, from the largest down; `NONE` where the others are -inf.

    Of log p + g these are draws of p without that code, and without each other (Gumbel top-k).
    """
    best, others = jax.lax.top_k(without(values, codes), min(count, values.shape[-1]))
    others = jnp.where(best > -jnp.inf, others, NONE)
    more = (*((0, 0),) * codes.ndim, (0, count - others.shape[-1]))
    return jnp.pad(others, more, constant_values=NONE)
