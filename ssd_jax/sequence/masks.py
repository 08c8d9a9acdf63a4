"""Attention masks: which cache slots each position of a window may attend to."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32


def causal(slots: Int32[Array, "B W"], starts: Int32[Array, " B"], length: int) -> Bool[Array, "B W T"]:
    """Everything from the first real prompt token up to the position itself.

    For a window at slots 3..5 of a cache of 7 slots, the prompt starting at slot 1 (columns: cache slots)::

        slot 3   . x x x . . .
        slot 4   . x x x x . .
        slot 5   . x x x x x .

    Over a window of grid positions this is the *raster* block mask: everything earlier in raster order, the grid row
    above included.

    Padding slots (before the start) see themselves, so that every softmax has at least one entry.

    Args:
        slots: the window's cache slots.
        starts: first real slot of each batch row.
        length: T.
    """
    cache = jnp.arange(length, dtype=jnp.int32)[None, None, :]
    own = slots[:, :, None]
    return ((cache >= starts[:, None, None]) & (cache <= own)) | (cache == own)


def before(slots: Int32[Array, "B W"], starts: Int32[Array, " B"], length: int) -> Bool[Array, "B W T"]:
    """Everything from the first real prompt token up to the slot before: for inputs that replace the one at `slots`.

    For slots 3..5 of a cache of 7 slots, the prompt starting at slot 1::

        slot 3   . x x . . . .
        slot 4   . x x x . . .
        slot 5   . x x x x . .
    """
    cache = jnp.arange(length, dtype=jnp.int32)[None, None, :]
    return (cache >= starts[:, None, None]) & (cache < slots[:, :, None])


def among(sees: Bool[np.ndarray, "E E"], shape: tuple[int, ...]) -> Bool[Array, "B fed E"]:
    """Which of the last E of a window's inputs, which have no slots, each input sees: further columns of a mask.

    Args:
        sees: which of them sees which.
        shape: of the mask, [B, fed, T].
    """
    above = np.zeros((shape[1] - len(sees), len(sees)), bool)
    return jnp.broadcast_to(np.concatenate([above, sees]), (shape[0], shape[1], len(sees)))


def row(
    slots: Int32[Array, "B W"],
    starts: Int32[Array, " B"],
    committed: Int32[Array, " B"],
    first: int,
    pitch: int,
    length: int,
) -> Bool[Array, "B W T"]:
    """The *row* block mask: everything committed and, of the rest, only the same grid row up to the position itself.

    For a grid of 4 columns whose first token is in slot 0, with positions 0..3 committed and grid rows 1 and 2 as the
    block (lines: the window's inputs and the positions they predict, one further on; columns: what an input sees)::

        input  predicts   0 1 2 3   4 5 6 7   8 9 10 11
            3      4      x x x x   . . . .   . . . .
            4      5      x x x x   x . . .   . . . .
            5      6      x x x x   x x . .   . . . .
            6      7      x x x x   x x x .   . . . .
            7      8      x x x x   x x x x   . . . .
            8      9      x x x x   . . . .   x . . .
            9     10      x x x x   . . . .   x x . .
           10     11      x x x x   . . . .   x x x .

    A row-end token belongs to the grid row it ends: with row ends, a row is `pitch` = 5 slots instead of 4.

    Not for lossless decoding: positions 9, 10 and 11 are predicted without the grid row above them. Position 8 is not:
    its input, 7, is the last of that row (or its row end) and sees all of it. `committed` past the end of the grid
    gives the raster mask.

    Args:
        slots, starts, length: as for `causal`.
        committed: the first slot that is not committed.
        first: slot of grid position 0.
        pitch: slots from one grid row to the next, C or C + 1.
    """
    cache = jnp.arange(length, dtype=jnp.int32)[None, None, :]
    own_row = (cache - first) // pitch == (slots[:, :, None] - first) // pitch
    seen = (cache < committed[:, None, None]) | own_row
    return causal(slots, starts, length) & (seen | (cache == slots[:, :, None]))


def row_causal(
    slots: Int32[Array, "B W"],
    starts: Int32[Array, " B"],
    counts: Int32[Array, "B R"],
    first: int,
    pitch: int,
    cols: int,
    length: int,
) -> Bool[Array, "B W T"]:
    """The prompt, the final tokens of the grid rows above, and the own row up to the input itself (PJD's row-causal
    mask, arXiv 2606.05703).

    An input's row is that of the token which it predicts. So the input before a row, the row end or the last token of
    the row above, belongs to the row that it begins, and is seen by it even if the row above is not complete. For a
    grid of 4 columns whose first token is in slot 0, with 3, 1 and 0 final tokens (lines: inputs; columns: what each
    sees)::

        input  predicts   0 1 2 3   4 5 6 7   8 9 10 11
            2      3      x x x .   . . . .   . . . .
            4      5      x x x x   x . . .   . . . .
            5      6      x x x x   x x . .   . . . .
            7      8      x x x .   x . . x   . . . .
            8      9      x x x .   x . . x   x . . .

    With row ends, those of the rows above are seen too.

    Args:
        slots, starts, length: as for `causal`.
        counts: number of final tokens of each grid row, at its beginning.
        first: slot of grid position 0.
        pitch: slots from one grid row to the next, C or C + 1.
        cols: C.
    """
    keys = np.arange(length, dtype=np.int32)[None] - first
    row_of, col = keys // pitch, keys % pitch
    final = (keys < 0) | (col == cols) | (col < counts[:, np.clip(row_of[0], 0, counts.shape[1] - 1)])
    own = (slots - first + 1)[:, :, None] // pitch
    seen = ((row_of[:, None] < own) & final[:, None]) | ((keys[:, None] + 1) // pitch == own)
    return causal(slots, starts, length) & (seen | (keys[:, None] + first == slots[:, :, None]))


def diagonal(
    slots: Int32[Array, "B W"],
    keys: Int32[Array, " T"],
    starts: Int32[Array, " B"],
    first: int,
    pitch: int,
    cols: int,
) -> Bool[Array, "B W T"]:
    """The prompt and, of the image, everything up to the input's own anti-diagonal (FlashAR, arXiv 2605.09430).

    A token of an image sees those for which grid row + column is at most its own, on its own diagonal also those to
    the right. For a grid of 3 x 3 whose first token is in slot 0 (lines: inputs; columns: what each sees)::

               0 1 2   3 4 5   6 7 8
        0      x . .   . . .   . . .
        1, 3   x x .   x . .   . . .
        2 4 6  x x x   x x .   x . .
        5, 7   x x x   x x x   x x .

    Inputs of the prompt see what `causal` shows them. Row ends are seen by nobody; they have no row and column.

    Args:
        slots: the inputs' cache slots; those of padding are past the end.
        keys: the slots of what can be seen, the whole cache or the inputs themselves.
        starts: first real slot of each batch row.
        first: slot of grid position 0.
        pitch: slots from one grid row to the next, C or C + 1.
        cols: C.
    """
    own, key = slots[:, :, None], keys[None, None, :]
    seen = (key >= starts[:, None, None]) & (key <= own) & (key < first)
    place, of = key - first, own - first
    nearer = place // pitch + place % pitch <= of // pitch + of % pitch
    return seen | ((place >= 0) & (of >= 0) & (place % pitch < cols) & nearer) | (key == own)
