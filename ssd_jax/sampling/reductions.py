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
    return jnp.sum(_shorter(x, jnp.add), axis=-1, keepdims=True)


def largest(x: jax.Array) -> jax.Array:
    """The maximum over the last axis, [..., Z] -> [..., 1]."""
    return jnp.max(_shorter(x, jnp.maximum), axis=-1, keepdims=True)


def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis, float32 [..., Z]; its maximum must be finite."""
    # The maximum is a constant here: shifting all of x changes nothing, so no gradient need go through it.
    exponentials = jnp.exp(x - jax.lax.stop_gradient(largest(x)))
    return exponentials / total(exponentials)


def inverse_rms(x: jax.Array, eps: float) -> jax.Array:
    """1 / sqrt(mean(x^2) + eps) over the last axis, [..., 1] (arXiv 1910.07467)."""
    return jax.lax.rsqrt(total(x * x) / x.shape[-1] + eps)


def folded(x: jax.Array, parts: int, combine: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add) -> jax.Array:
    """The equal parts of the last axis combined into one, from left to right: [..., parts * Z] -> [..., Z]."""
    split = x.reshape(*x.shape[:-1], parts, x.shape[-1] // parts)
    out = split[..., 0, :]
    for part in range(1, parts):
        out = combine(out, split[..., part, :])
    return out


def _shorter(x: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """x with `PARTS` parts of its last axis combined, where that pays and the axis divides.

    Not over a mesh: there the axis may lie on several devices, and its parts would travel.
    """
    if x.shape[-1] % PARTS or jax.default_backend() != "cpu" or not jax.sharding.get_abstract_mesh().empty:
        return x
    return folded(x, PARTS, combine)
