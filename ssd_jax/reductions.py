"""Sums and maxima over the last axis, as fast on a CPU as on other machines.

There XLA goes along an axis one number after the other, but adds whole arrays many numbers at a time. So an axis is cut
into `PARTS` arrays that are added up first. That order is written down and hence the same in every batch and window.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PARTS = 8
"""What was fastest on axes of 256 to 2048 numbers."""


def total(x: jax.Array) -> jax.Array:
    """The sum over the last axis, [..., Z] -> [..., 1]."""
    return jnp.sum(_folded(x, jnp.add), axis=-1, keepdims=True)


def largest(x: jax.Array) -> jax.Array:
    """The maximum over the last axis, [..., Z] -> [..., 1]."""
    return jnp.max(_folded(x, jnp.maximum), axis=-1, keepdims=True)


def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis, float32 [..., Z]; its maximum must be finite."""
    # The maximum is a constant here: shifting all of x changes nothing, so no gradient need go through it.
    exponentials = jnp.exp(x - jax.lax.stop_gradient(largest(x)))
    return exponentials / total(exponentials)


def inverse_rms(x: jax.Array, eps: float) -> jax.Array:
    """1 / sqrt(mean(x^2) + eps) over the last axis, [..., 1] (arXiv 1910.07467)."""
    return jax.lax.rsqrt(total(x * x) / x.shape[-1] + eps)


def _folded(x: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """`PARTS` parts of the last axis combined into one, where that pays and the axis divides.

    Not over a mesh: there the axis may lie on several devices, and its parts would travel.
    """
    size, rest = divmod(x.shape[-1], PARTS)
    if rest or jax.default_backend() != "cpu" or not jax.sharding.get_abstract_mesh().empty:
        return x
    parts = x.reshape(*x.shape[:-1], PARTS, size)
    out = parts[..., 0, :]
    for part in range(1, PARTS):
        out = combine(out, parts[..., part, :])
    return out
