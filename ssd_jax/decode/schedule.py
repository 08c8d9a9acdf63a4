"""When a wave drafts, corrects and settles the tokens of a grid: tables that are made before anything runs."""

import functools
from typing import NamedTuple

import numpy as np

from ssd_jax.layout import Grid


class Schedule(NamedTuple):
    """What every pass does; passes are numbered from 1, the prefill, and the tables have a line for each of 2 .. P.

    Attributes:
        final: int32 [R*C], the pass that settles each token.
        drafted: int32 [R], the pass after which each row is drafted.
        fed: int32 [P-1, W], positions whose tokens are fed; padding is R*C.
        live: int32 [P-1, L], positions that are corrected; padding is R*C.
        outputs: int32 [P-1, L], which of the W outputs predicts each.
        written: int32 [P-1], how many rows were fed before.
        new: int32 [P-1], the row that is fed for the first time, -1 for none.
        states: int32 [P-1, C], which of the W outputs predict that row; token 0 has none, the prefill predicts it.
        below: int32 [P-1], the row that is drafted after the pass, R for none; the one above it is the newest.
    """

    final: np.ndarray
    drafted: np.ndarray
    fed: np.ndarray
    live: np.ndarray
    outputs: np.ndarray
    written: np.ndarray
    new: np.ndarray
    states: np.ndarray
    below: np.ndarray

    @property
    def passes(self) -> int:
        """P, the prefill included."""
        return int(self.final.max())


@functools.lru_cache(maxsize=16)
def slanted(grid: Grid, down: float, right: float, depth: int) -> Schedule:
    """The schedule of `Wave`, which see; for more than one token, down >= 1, right >= 0 and depth >= 1.

    A row is drafted as a whole, because the one below it needs its last token. In pass k it is fed

    - what is corrected, and the token before each of these, which predicts it,
    - what became final in pass k - 1: its keys and values are computed anew,
    - a row that was drafted after pass k - 1, so that it can be seen; all of it is corrected then, so that there are
      states for the draft heads.
    """
    N, C = grid.size, grid.cols
    row, col = np.divmod(np.arange(N), C)
    # The little more than nothing is for products that come out just below a whole number.
    final = np.where(np.arange(N) == 0, 1, 2 + np.floor(down * row + right * col + 1e-9)).astype(np.int32)
    drafted = np.ones(grid.rows, np.int32)
    for r in range(1, grid.rows):
        drafted[r] = max(final[r * C] - depth, drafted[r - 1] + 1)

    k = np.arange(2, final[-1] + 1, dtype=np.int32)[:, None]
    there, new = drafted[row] < k, drafted[row] == k - 1
    live = there & (final >= k) & ((final < k + depth) | new)
    fed = live | new | (there & (final == k - 1))
    fed[:, :-1] |= live[:, 1:]
    fed[:, -1] = False  # it predicts nothing

    place = np.cumsum(fed, axis=1, dtype=np.int32) - 1
    lines, corrected = np.arange(k.size)[:, None], _positions(live)
    rows, below = np.full(k.size, -1, np.int32), np.full(k.size, grid.rows, np.int32)
    first = drafted <= k.size  # but for pictures of one token, all
    rows[drafted[first] - 1] = np.flatnonzero(first)
    below[drafted[1:] - 2] = np.arange(1, grid.rows)
    return Schedule(
        final=final,
        drafted=drafted,
        fed=_positions(fed),
        live=corrected,
        outputs=place[lines, np.clip(corrected - 1, 0, N - 1)],
        written=np.sum(drafted < k - 1, axis=1, dtype=np.int32),
        new=rows,
        states=place[lines, np.clip(rows[:, None] * C + np.arange(C) - 1, 0, N - 1)],
        below=below,
    )


def _positions(which: np.ndarray) -> np.ndarray:
    """The True columns of every line of bool [K, N], padded with N to the longest: int32 [K, longest]."""
    order = np.argsort(~which, axis=1, kind="stable")
    count = which.sum(axis=1)
    width = int(count.max(initial=0))
    return np.where(np.arange(width) < count[:, None], order[:, :width], which.shape[1]).astype(np.int32)
