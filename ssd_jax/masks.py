"""Which cache slots a window position may attend to."""

import jax
import jax.numpy as jnp


def causal(slots: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """Everything from the first real prompt token up to the position itself.

    For a window at slots 3..5 of a cache of 7 slots whose row starts at slot 1 (rows: window, columns: cache)::

        slot 3   . x x x . . .
        slot 4   . x x x x . .
        slot 5   . x x x x x .

    Over a window of grid positions this is the *raster* block mask: earlier in raster order, the row above included.

    Padding slots (before the start) see themselves, so that no row of a softmax is empty.

    Args:
        slots: int32 [B, W], the window's cache slots.
        starts: int32 [B], first real slot of each row.
        length: T.
    Returns:
        bool [B, W, T].
    """
    cache = jnp.arange(length, dtype=jnp.int32)[None, None, :]
    own = slots[:, :, None]
    return ((cache >= starts[:, None, None]) & (cache <= own)) | (cache == own)


def row(slots: jax.Array, starts: jax.Array, committed: jax.Array, first: int, pitch: int, length: int) -> jax.Array:
    """The *row* block mask: everything committed and, among the rest, only the own row up to the position itself.

    For a grid of 4 columns whose first token is in slot 0, with positions 0..3 committed and a window over rows 1
    and 2 (its input before the block is the committed position 3)::

        position   0 1 2 3   4 5 6 7   8 9 10 11
            3      x x x x   . . . .   . . . .
            4      x x x x   x . . .   . . . .
            5      x x x x   x x . .   . . . .
            6      x x x x   x x x .   . . . .
            7      x x x x   x x x x   . . . .
            8      x x x x   . . . .   x . . .
            9      x x x x   . . . .   x x . .
           10      x x x x   . . . .   x x x .

    A row-end token belongs to the row it ends: with them, a row is `pitch` = 5 slots instead of 4.

    Not for lossless decoding: position 8 is predicted without the row above it. Committed past the end of the grid
    gives the raster mask.

    Args:
        slots, starts, length: as for `causal`.
        committed: int32 [B], the first slot that is not committed.
        first: slot of grid position 0.
        pitch: slots from a row to the next, C or C + 1.
    Returns:
        bool [B, W, T].
    """
    cache = jnp.arange(length, dtype=jnp.int32)[None, None, :]
    own_row = (cache - first) // pitch == (slots[:, :, None] - first) // pitch
    seen = (cache < committed[:, None, None]) | own_row
    return causal(slots, starts, length) & (seen | (cache == slots[:, :, None]))


def held(slots: jax.Array, written: jax.Array) -> jax.Array:
    """Slots that hold keys: those `written` before and the window's own. Together with `causal`, the *slanted* mask.

    Where rows of a picture advance side by side, slots lie empty between them. On a grid of 4 columns whose first
    token is in slot 0, with every row two columns behind the one above it and positions 0, 1, 2 and 4 written before::

        position   0 1 2 3   4 5 6 7   8 9 ...
            3      x x x x   . . . .   . .
            5      x x x x   x x . .   . .

    Args:
        slots: int32 [B, W], the window's cache slots; those of padding lie outside the cache.
        written: bool [B, T].
    Returns:
        bool [B, 1, T].
    """
    # Mapped over rows, as `cache.write` is, so that devices with rows of their own need not talk.
    return jax.vmap(lambda row, own: row.at[own].set(True, mode="drop"))(written, slots)[:, None, :]
