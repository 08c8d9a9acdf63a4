"""The row loop as a pipeline: several rows in flight, each a round older than the one below it."""

import dataclasses

import jax
import jax.numpy as jnp

from ssd_jax.cache import KVCache
from ssd_jax.decode.accept import auto_correct
from ssd_jax.decode.blocks import MASKS, first_row, first_row_stretches
from ssd_jax.decode.state import Decoded, Functions, gather, scatter
from ssd_jax.decode.stretches import Stretch, Stretches
from ssd_jax.errors import require_one_of, require_whole
from ssd_jax.layout import Grid
from ssd_jax.sampling import choose


@dataclasses.dataclass(frozen=True)
class Wave:
    """SSD's rounds, overlapped (ours; not lossless).

    The window of pass k is row k - m, which the pass before retired, and the m live rows below it::

        pass k      row k-m     final; its keys and values are computed anew, so it needs no commit pass
                    row k-m+1   m-th correction, retires
                    ...
                    row k       first correction; then row k+1 is drafted from it

    Passes on an R x C grid with k_h horizontal heads: 1 + 2 ceil((C - 1) / k_h) + (R - 1) + (m - 1), the last
    summands only for R > 1. Afterwards the cache is right up to the end of row R - 2.

    Attributes:
        rows: m, live rows; each is corrected m times.
        mask: "raster", or "row": live rows do not see each other.
    """

    rows: int = 2
    mask: str = "raster"

    adaptive = False

    def __post_init__(self):
        require_whole("rows", self.rows, 1)
        require_one_of("mask", self.mask, MASKS)

    @property
    def heads(self) -> tuple[int, int]:
        """How many horizontal and vertical heads it takes."""
        return 1, 1

    def stretches(self, grid: Grid, horizontal: int, passes: int | None = None) -> Stretches:
        """See `decode.stretches`."""
        del passes
        start = first_row_stretches(grid, horizontal)
        if grid.rows == 1:
            return start
        m, C = self.rows, grid.cols
        count = grid.rows - 1 + m - 1
        return *start, Stretch(count, (m + 1) * C - 1, m * C, drafts=count + 1, vertical=1, sources=C)


def decode_wave(functions: Functions, cache: KVCache, hidden: jax.Array, grid: Grid, decoder: Wave) -> Decoded:
    """Decodes a batch; all images go at the same speed. Arguments as for `decode_raster`."""
    m, (R, C) = decoder.rows, (grid.rows, grid.cols)
    start = first_row(functions, cache, hidden, grid, rounds=1)
    if R == 1:
        return Decoded(start.tokens, start.passes, start.trace, start.cache)
    last_pass = R - 1 + m - 1

    def draft_row(row: jax.Array, state: tuple, hidden: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Drafts `row` from the h [G, C, D] above it: tokens, trace, log q [B, C, V]; past the grid nothing happens."""
        tokens, trace, passes = state
        columns = jnp.broadcast_to(jnp.arange(C, dtype=jnp.int32), (tokens.shape[0], C))
        positions = row * C + columns
        log_q = functions.draft(hidden, gather(tokens, positions - C), columns, ((1, 0),))[:, 0]
        tokens = scatter(tokens, positions, choose(log_q, functions.noise(positions)))
        return tokens, scatter(trace, positions, passes), log_q

    def body(state: tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, KVCache]) -> tuple:
        k, tokens, log_q, passes, trace, cache = state
        B = tokens.shape[0]
        retired = jnp.maximum(k - m, 0)
        end = jnp.minimum(k + 1, R) * C  # first position below the youngest live row
        inputs = jnp.broadcast_to(retired * C + jnp.arange((m + 1) * C - 1, dtype=jnp.int32), (B, (m + 1) * C - 1))
        inputs = jnp.where(inputs < end - 1, inputs, grid.size)
        live = jnp.broadcast_to((retired + 1) * C + jnp.arange(m * C, dtype=jnp.int32), (B, m * C))
        committed = jnp.broadcast_to((retired + 1) * C, (B,)) if decoder.mask == "row" else None
        hidden, cache = functions.verify(cache, gather(tokens, inputs), inputs, committed)
        hidden = hidden[:, C - 1 :]
        passes = passes + 1

        log_p = functions.log_p(hidden)
        with jax.named_scope("accept"):
            corrected = auto_correct(functions, gather(tokens, live), log_p, log_q, live, passes)
        target = jnp.where(live < end, live, grid.size)
        tokens, trace = scatter(tokens, target, corrected), scatter(trace, target, passes)

        with jax.named_scope("draft"):
            youngest = jax.lax.dynamic_slice_in_dim(hidden, (jnp.minimum(k, m) - 1) * C, C, axis=1)
            tokens, trace, fresh = draft_row(k + 1, (tokens, trace, passes), youngest)
        both = jnp.pad(log_p, ((0, 0), (0, C), (0, 0)))
        both = jax.lax.dynamic_update_slice_in_dim(both, fresh, jnp.minimum(k, m) * C, axis=1)
        moved = jnp.maximum(k + 1 - m, 0) - retired
        log_q = jax.lax.dynamic_slice_in_dim(both, moved * C, m * C, axis=1)
        return k + 1, tokens, log_q, passes, trace, cache

    tokens, trace, fresh = draft_row(jnp.int32(1), (start.tokens, start.trace, start.passes), start.row)
    log_q = jnp.pad(fresh, ((0, 0), (0, (m - 1) * C), (0, 0)))
    state = (jnp.int32(1), tokens, log_q, start.passes, trace, start.cache)
    _, tokens, _, passes, trace, cache = jax.lax.while_loop(lambda s: s[0] <= last_pass, body, state)
    return Decoded(tokens, passes, trace, cache)
