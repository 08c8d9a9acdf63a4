"""Turns the logits of a position into its distribution p: guidance, temperature, top-k, top-p."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float32, Int32, Real, UInt32

from ssd_jax.sampling.choice import most_likely
from ssd_jax.sampling.selection import kth_largest


@flax.struct.dataclass
class Sampler:
    """The sampling parameters, traced scalars or Python numbers: changing one does not recompile.

    Attributes:
        cfg_scale: float32, classifier-free-guidance scale s in u + s * (c - u); not used without guidance.
        temperature: float32 >= 0; 0 takes the most likely code.
        top_k: int32 >= 1, keep the k most likely codes (ties kept); V or more keeps all.
        top_p: float32 in (0, 1], keep the smallest set of most likely codes left by top_k whose mass reaches top_p
            (ties kept); 1 keeps all.
    """

    cfg_scale: Any
    temperature: Any
    top_k: Any
    top_p: Any


def residual(log_p: Float32[Array, "*batch V"], log_q: Float32[Array, "*batch V"]) -> Float32[Array, "*batch V"]:
    """Log of the residual max(0, p - q), not normalised (Gumbel-max does not need it); log p where p equals q.

    Source: speculative sampling, arXiv 2211.17192, section 2.3.
    """
    rest = jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)
    return jnp.where(jnp.any(rest > 0, axis=-1, keepdims=True), jnp.log(rest), log_p)


def guide(logits: Float[Array, "G W V"], cfg_scale: Real[ArrayLike, ""], guided: bool) -> Float[Array, "B W V"]:
    """u + s * (c - u) of a CFG batch of G = 2B rows, conditional first; the logits themselves if not `guided`."""
    if not guided:
        return logits
    conditional, unconditional = jnp.split(logits, 2)
    return unconditional + cfg_scale * (conditional - unconditional)


def log_probabilities(logits: Float[Array, "*batch V"], sampler: Sampler) -> Float32[Array, "*batch V"]:
    """log p: temperature, then top-k, then top-p, then softmax; -inf for codes that are cut off."""
    filtered = (sampler.top_k < logits.shape[-1]) | (sampler.top_p < 1.0)
    # Real branches: filters that are off cost nothing.
    which = jnp.where(sampler.temperature > 0, 1 + filtered.astype(jnp.int32), 0)
    kept = jax.lax.switch(which, (_greedy, _softened, _filtered), logits.astype(jnp.float32), sampler)
    return jax.nn.log_softmax(kept, axis=-1)


def _greedy(logits: Float32[Array, "*batch V"], sampler: Sampler) -> Float32[Array, "*batch V"]:
    del sampler
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(ids == most_likely(logits)[..., None], 0.0, -jnp.inf)


def _softened(logits: Float32[Array, "*batch V"], sampler: Sampler) -> Float32[Array, "*batch V"]:
    return logits / sampler.temperature


def _filtered(logits: Float32[Array, "*batch V"], sampler: Sampler) -> Float32[Array, "*batch V"]:
    scaled = logits / sampler.temperature
    scaled = jax.lax.cond(
        sampler.top_k < logits.shape[-1],
        lambda x: jnp.where(x >= kth_largest(x, sampler.top_k), x, -jnp.inf),
        lambda x: x,
        scaled,
    )
    return jax.lax.cond(sampler.top_p < 1.0, lambda x: _nucleus(x, sampler.top_p), lambda x: x, scaled)


def _nucleus(logits: Float32[Array, "*batch V"], top_p: Float32[Array, ""]) -> Float32[Array, "*batch V"]:
    """Sets to -inf all logits below the largest threshold above which at least `top_p` of the mass lies."""
    p = jax.nn.softmax(logits, axis=-1)
    bits = _ordered(p)
    threshold = _search(lambda t: jnp.sum(jnp.where(bits >= t, p, 0.0), axis=-1, keepdims=True) >= top_p, p.shape)
    return jnp.where(bits >= threshold, logits, -jnp.inf)


def _ordered(x: Float32[Array, "*batch V"]) -> UInt32[Array, "*batch V"]:
    """Integers that sort as the floats do."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _search(
    holds: Callable[[UInt32[Array, "*batch 1"]], Bool[Array, "*batch 1"]], shape: tuple[int, ...]
) -> UInt32[Array, "*batch 1"]:
    """The largest uint32 for which the monotone predicate holds, bit by bit from the top, for an array [..., V]."""

    def body(step: Int32[Array, ""], found: UInt32[Array, "*batch 1"]) -> UInt32[Array, "*batch 1"]:
        candidate = found | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, 32, body, jnp.zeros((*shape[:-1], 1), jnp.uint32))
