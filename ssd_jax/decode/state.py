"""What every decoder is given and what it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from ssd_jax.cache import KVCache
from ssd_jax.sampling import choose

Offsets = tuple[tuple[int, int], ...]
"""(rows down, columns right) of draft heads."""


class Functions(NamedTuple):
    """The model as a decoder sees it; B is the number of images, G = 2B with guidance (conditional rows first), else B.

    Attributes:
        verify: (cache, codes int32 [B, W], positions int32 [B, W], committed=None, ends=None) -> (hidden [G, W, D],
            cache). One verifier pass over a window whose inputs are the tokens at `positions`; hidden[:, w]
            predicts position `positions[:, w] + 1`, it is h of that position. Row ends, where the backbone has them,
            are fed with the rows' last tokens. The window is written to the cache, then attended to in raster order,
            or, where `committed` int32 [B] gives the first position that is not committed, by the row mask. Positions
            from R*C on are padding: not written, outputs meaningless.
            The positions are consecutive, padding behind them; with `ends`, a number known when traced, any distinct
            ones of which no more than `ends` are the last of their row. All positions before each of them are in the
            cache or among them: what has not been written is not masked.
        log_p: hidden [G, W, D] -> log p, float32 [B, W, V], guidance and filters applied.
        noise: positions int32 [B, W] -> keyed Gumbel noise g, float32 [B, W, V].
        keys: positions int32 [B, W] -> key_i, [B, W], from which fresh draws are derived.
        embed: codes int32 [...] -> input embeddings e [..., D].
        draft: (hidden [G, X, D], codes int32 [B, X], columns int32 [B, X], offsets of length O, count=None) -> log q,
            float32 [B, O, X, V], or of the first `count` sources alone: what the heads at the offsets predict from the
            tokens `codes`, the states h that predicted them and, where a head has a context, those beside them in the
            row; sources are consecutive in raster order. Guidance and filters applied as to p. None without heads.
        horizontal, vertical: number of heads to the right, k_h, and down, k_v.
        context: columns on either side of its source that a vertical head sees, too.
        limit: int32, passes after which a loop stops, for timings; None: at the end of the pictures.
    """

    verify: Callable[..., tuple[jax.Array, KVCache]]
    log_p: Callable[[jax.Array], jax.Array]
    noise: Callable[[jax.Array], jax.Array]
    keys: Callable[[jax.Array], jax.Array]
    embed: Callable[[jax.Array], jax.Array]
    draft: Callable[..., jax.Array] | None = None
    horizontal: int = 0
    vertical: int = 0
    context: int = 0
    limit: jax.Array | None = None

    def goes_on(self, unfinished: jax.Array, passes: jax.Array) -> jax.Array:
        """Whether a loop makes another pass: pictures are `unfinished`, bool of any shape, and the passes made so far,
        int32 of any shape, are below the limit."""
        unfinished = jnp.any(unfinished)
        return unfinished if self.limit is None else unfinished & (jnp.max(passes) < self.limit)


@flax.struct.dataclass
class Decoded:
    """What a decoder returns.

    Attributes:
        tokens: int32 [B, R*C], the pictures.
        passes: int32 [B], verifier passes made for each image, prefill included.
        trace: int32 [B, R*C], the pass (from 1, the prefill) in which each token became final.
        cache: the cache, so that its buffer can be used again.
    """

    tokens: jax.Array
    passes: jax.Array
    trace: jax.Array
    cache: Any


def first_token(functions: Functions, hidden: jax.Array, size: int) -> tuple[jax.Array, jax.Array, int]:
    """Pictures of `size` tokens of which token 0 is drawn, from the prefill's last hidden state [G, 1, D].

    Returns:
        tokens and trace, int32 [B, size], 0 behind token 0; and V.
    """
    log_p = functions.log_p(hidden)
    B, _, V = log_p.shape
    with jax.named_scope("sampling"):
        token = choose(log_p, functions.noise(jnp.zeros((B, 1), jnp.int32)))
    empty = jnp.zeros((B, size), jnp.int32)
    return empty.at[:, :1].set(token), empty.at[:, 0].set(1), V


def gather(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """tokens [B, R*C] at positions int32 [B, W]; places outside the grid give the nearest token's."""
    return jnp.take_along_axis(tokens, jnp.clip(positions, 0, tokens.shape[1] - 1), axis=1)


def scatter(array: jax.Array, positions: jax.Array, values: jax.Array) -> jax.Array:
    """Writes values [B, W] or [B] into array [B, R*C] at positions int32 [B, W]; places past the end are dropped."""
    rows = jnp.arange(array.shape[0], dtype=jnp.int32)[:, None]
    values = values if values.ndim == positions.ndim else values[:, None]
    return array.at[rows, positions].set(values, mode="drop")
