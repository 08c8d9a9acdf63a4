"""Finds the k-th largest number of an axis without a sort, in a fixed number of steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int16, Int32

HALF = 16
"""Bits found at a time: a CPU's vector registers hold twice as many 16-bit numbers as 32-bit ones."""

LOWEST = -(2 ** (HALF - 1))


def kth_largest(x: Float32[Array, "*batch V"], k: Int32[Array, ""]) -> Float32[Array, "*batch 1"]:
    """The k-th largest number of the last axis, k in 1..V; equal numbers count separately.

    Searches for the bits of the answer from the top: first the upper half, then the lower half among the numbers that
    share the upper one.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    ordered = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    upper = (ordered >> HALF).astype(jnp.int16)
    first = _largest(upper, k)
    same = upper == first.astype(jnp.int16)
    above = _count(upper > first.astype(jnp.int16))
    second = _largest(jnp.where(same, ((ordered & 0xFFFF) + LOWEST).astype(jnp.int16), LOWEST), k - above)
    found = (first << HALF) | (second - LOWEST)
    return jax.lax.bitcast_convert_type(jnp.where(found < 0, found ^ 0x7FFFFFFF, found), jnp.float32)


def _largest(x: Int16[Array, "*batch V"], k: Int32[Array, "..."]) -> Int32[Array, "*batch 1"]:
    """The largest number that at least k entries of x reach, `LOWEST` if there is none; k is a scalar or [..., 1]."""

    def body(step: Int32[Array, ""], found: Int32[Array, "*batch 1"]) -> Int32[Array, "*batch 1"]:
        candidate = found + (1 << (HALF - 1 - step))
        return jnp.where(_count(x >= candidate.astype(jnp.int16)) >= k, candidate, found)

    return jax.lax.fori_loop(0, HALF, body, jnp.full((*x.shape[:-1], 1), LOWEST, jnp.int32))


def _count(holds: Bool[Array, "*batch V"]) -> Int32[Array, "*batch 1"]:
    """Number of true entries along the last axis.

    On CPU, XLA reduces along an axis one number at a time, but adds arrays with SIMD, so most of the sum is written as
    the latter. The numbers of halvings were measured on vocabularies of 1024, 16384 and 131072.
    """
    counts = holds.astype(jnp.int16)
    halvings = 7 if counts.shape[-1] > 4096 else 4
    padding = (*((0, 0),) * (counts.ndim - 1), (0, -counts.shape[-1] % 2**halvings))
    counts = jnp.pad(counts, padding)
    for _ in range(halvings):
        left, right = jnp.split(counts, 2, axis=-1)
        counts = left + right
    return jnp.sum(counts, axis=-1, keepdims=True, dtype=jnp.int32)
