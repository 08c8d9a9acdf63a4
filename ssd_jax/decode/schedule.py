"""Computes the static schedule of a wave: when it drafts, corrects and commits each token of a grid."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ssd_jax.sequence.layout import Grid


class Schedule(NamedTuple):
    """Tables of what every pass does. Passes are numbered from 1, the prefill; tables have a line for each of 2 .. P.

    Attributes:
        final: the pass in which each token becomes final.
        drafted: the pass after which each grid row is drafted.
        fed: positions whose tokens are fed; padding is R*C.
        ends: the most positions of a line that are the last of their grid row.
        live: positions that are corrected; padding is R*C.
        outputs: for each of them, which of the W outputs predicts it.
        new: the grid row that is fed for the first time, -1 for none.
        states: which of the W outputs predict that row; token 0 has none, the prefill predicts it.
        below: the grid row that is drafted after the pass, R for none; the row above it is the newest.
    """

    final: Int32[np.ndarray, " tokens"]
    drafted: Int32[np.ndarray, " R"]
    fed: Int32[np.ndarray, "P-1 W"]
    ends: int
    live: Int32[np.ndarray, "P-1 corrected"]
    outputs: Int32[np.ndarray, "P-1 corrected"]
    new: Int32[np.ndarray, " P-1"]
    states: Int32[np.ndarray, "P-1 C"]
    below: Int32[np.ndarray, " P-1"]


def count_passes(grid: Grid, down: int | float, right: int | float) -> int:
    """P, the number of passes of the schedule, the prefill included."""
    return int(_final(grid, down, right, np.array([grid.size - 1]))[0])


@functools.lru_cache(maxsize=16)
def slanted(grid: Grid, down: int | float, right: int | float, depth: int) -> Schedule:
    """The schedule of `Wave`, see there; for down >= 1, right >= 0 and depth >= 1.

    A grid row is drafted at once, because the row below it needs its last token. The inputs of pass k are

    - tokens that are corrected, and the token before each of these, which predicts it,
    - tokens that became final in pass k - 1, whose keys and values are recomputed,
    - a grid row that was drafted after pass k - 1, so that it can be seen; all of it is corrected then, so that there
      are states for the draft heads.
    """
    R, C, N = grid.rows, grid.cols, grid.size
    final = _final(grid, down, right, np.arange(N))
    drafted = np.ones(R, np.int32)
    for r in range(1, R):
        drafted[r] = max(int(final[r * C]) - depth, drafted[r - 1] + 1)

    P, row_of = int(final[-1]), np.arange(N) // C
    new, below = np.full(P - 1, -1, np.int32), np.full(P - 1, R, np.int32)
    if N > 1:
        new[drafted - 1] = np.arange(R)
        below[drafted[1:] - 2] = np.arange(1, R)
    fed, live, outputs, states = [], [], [], np.zeros((P - 1, C), np.int32)
    for line, k in enumerate(range(2, P + 1)):
        is_new = row_of == new[line]
        is_live = (drafted[row_of] < k) & (final >= k) & ((final - k < depth) | is_new)
        is_fed = is_live | (final == k - 1)
        is_fed[:-1] |= is_live[1:]
        is_fed[-1] = False  # it predicts nothing
        place = np.cumsum(is_fed) - 1
        fed.append(np.flatnonzero(is_fed))
        live.append(np.flatnonzero(is_live))
        outputs.append(place[live[-1] - 1])
        if new[line] >= 0:
            states[line] = place[np.maximum(np.flatnonzero(is_new) - 1, 0)]
    return Schedule(
        final=final,
        drafted=drafted,
        fed=_padded(fed, N),
        ends=max((int(np.sum(line % C == C - 1)) for line in fed), default=0),
        live=_padded(live, N),
        outputs=_padded(outputs, 0),
        new=new,
        states=states,
        below=below,
    )


def _final(
    grid: Grid, down: int | float, right: int | float, positions: Int[np.ndarray, " X"]
) -> Int32[np.ndarray, " X"]:
    """The passes in which the tokens at `positions` become final."""
    row, col = np.divmod(positions, grid.cols)
    # The small constant is for products that are rounded to just below an integer.
    return np.where(positions == 0, 1, 2 + np.floor(down * row + right * col + 1e-9)).astype(np.int32)


def _padded(lines: list[Int[np.ndarray, " _"]], fill: int) -> Int32[np.ndarray, "lines longest"]:
    """Pads lines of different length to one array."""
    width = max((len(line) for line in lines), default=0)
    padded = [np.pad(line, (0, width - len(line)), constant_values=fill) for line in lines]
    return np.array(padded, np.int32).reshape(len(lines), width)
