"""The k-th largest of many numbers, found without a sort and in a fixed number of steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int16, Int32

from ssd_jax.sampling.reductions import folded

HALF = 16
"""Bits found at a time: numbers of 16 bits pass through a CPU's vector registers twice as many at once as of 32."""

LOWEST = -(2 ** (HALF - 1))


def kth_largest(x: Float32[Array, "*batch V"], k: Int32[Array, ""]) -> Float32[Array, "*batch 1"]:
    """The k-th largest of the last axis; k is in 1..V; equal numbers count each.

    A search for the bits of the answer from the top, first the upper half of a number, then the lower half among those
    that share the upper one.
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
    """The largest number that at least k of x reach, the lowest if there is none; k is one number or [..., 1]."""

    def body(step: Int32[Array, ""], found: Int32[Array, "*batch 1"]) -> Int32[Array, "*batch 1"]:
        candidate = found + (1 << (HALF - 1 - step))
        return jnp.where(_count(x >= candidate.astype(jnp.int16)) >= k, candidate, found)

    return jax.lax.fori_loop(0, HALF, body, jnp.full((*x.shape[:-1], 1), LOWEST, jnp.int32))


def _count(holds: Bool[Array, "*batch V"]) -> Int32[Array, "*batch 1"]:
    """How many of the last axis are true.

    XLA adds along an axis one number after the other on a CPU, but sums of whole arrays many at a time: so most of it
    is written as these. The parts were measured on vocabularies of 1024 and 32768.
    """
    total = holds.astype(jnp.int16)
    for parts in (8, 16) if holds.shape[-1] > 4096 else (16,):
        padding = (*((0, 0),) * (total.ndim - 1), (0, -total.shape[-1] % parts))
        total = folded(jnp.pad(total, padding), parts)
    return jnp.sum(total, axis=-1, keepdims=True, dtype=jnp.int32)
