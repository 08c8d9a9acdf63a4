"""Draws a code from a distribution by Gumbel-max."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


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
