"""Defines the result of a decoder, and helpers that the loops share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.layout import Grid


@flax.struct.dataclass
class Decoded:
    """The result of a decoder.

    Attributes:
        tokens: int32 [B, R*C], the images.
        passes: int32 [B], verifier passes made for each image, prefill included.
        trace: int32 [B, R*C], the pass (from 1, the prefill) in which each token became final.
        cache: the cache, so that its buffer can be reused.
    """

    tokens: Any
    passes: Any
    trace: Any
    cache: Cache


def first_token(
    verifier: Verifier, hidden: Float[Array, "G 1 D"], size: int
) -> tuple[Int32[Array, "B {size}"], Int32[Array, "B {size}"], int]:
    """Starts images of `size` tokens: draws token 0 from the prefill's last hidden state.

    Returns:
        tokens and trace, 0 after token 0; and V.
    """
    log_p = verifier.log_p(hidden)
    B, _, V = log_p.shape
    start = jnp.zeros((B, 1), jnp.int32)
    with jax.named_scope("sampling"):
        token = choose(verifier.constrain(log_p, start), verifier.noise(start))
    empty = jnp.zeros((B, size), jnp.int32)
    return empty.at[:, :1].set(token), empty.at[:, 0].set(1), V


def gather(tokens: Int32[Array, "B tokens"], positions: Int32[Array, "B W"]) -> Int32[Array, "B W"]:
    """The tokens at `positions`; positions outside the grid give the nearest token."""
    return jnp.take_along_axis(tokens, jnp.clip(positions, 0, tokens.shape[1] - 1), axis=1)


def scatter(
    array: Int32[Array, "B tokens"],
    positions: Int32[Array, "B W"],
    values: Int32[Array, "B W"] | Int32[Array, " B"],
) -> Int32[Array, "B tokens"]:
    """Writes values, one per position or per image, into an array; positions past the end are dropped."""
    rows = jnp.arange(array.shape[0], dtype=jnp.int32)[:, None]
    values = values if values.ndim == positions.ndim else values[:, None]
    return array.at[rows, positions].set(values, mode="drop")


def in_raster_order(verifier: Verifier, make_pass: Callable[[Any], Any], state: Any, grid: Grid) -> Decoded:
    """Makes passes until every image is finished, from a state with `tokens`, `passes`, `trace`, `cache`, and `first`,
    the first position that is not final, R*C when the image is finished. Images proceed at their own speed."""
    state = verifier.loop(make_pass, state, lambda s: Progress(s.first < grid.size, s.passes, s.tokens, s.trace))
    return Decoded(state.tokens, state.passes, state.trace, state.cache)


def traced(
    trace: Int32[Array, "B tokens"], first: Int32[Array, " B"], now: Int32[Array, " B"], passes: Int32[Array, " B"]
) -> Int32[Array, "B tokens"]:
    """The trace after the pass `passes`, in which the positions from `first` on and before `now` became final."""
    index = jnp.arange(trace.shape[1], dtype=jnp.int32)[None]
    newly = (index >= first[:, None]) & (index < now[:, None])
    return jnp.where(newly, passes[:, None], trace)


def slices(array: Shaped[Array, "B all *rest"], starts: Int32[Array, " B"], size: int) -> Shaped[Array, "B size *rest"]:
    """`size` entries of every batch row, from its own start."""
    return jax.vmap(partial(jax.lax.dynamic_slice_in_dim, slice_size=size))(array, starts)
