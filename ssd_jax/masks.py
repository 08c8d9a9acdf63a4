"""Which cache slots a window position may attend to."""

import jax
import jax.numpy as jnp


def causal(slots: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """Everything from the first real prompt token up to the position itself.

    For a window at slots 3..5 of a cache of 7 slots whose row starts at slot 1 (rows: window, columns: cache)::

        slot 3   . x x x . . .
        slot 4   . x x x x . .
        slot 5   . x x x x x .

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
