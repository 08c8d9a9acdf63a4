"""The anti-diagonals of a grid, in which `flash` draws."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from ssd_jax.sequence.layout import Grid


class Diagonals(NamedTuple):
    """The anti-diagonals of a grid, D = R + C - 1 of them, padded to M = min(R, C) tokens.

    Attributes:
        positions: their positions; R*C stands for padding.
        left, above: places of each one's left and upper neighbours in the diagonal before; any, if it has none.
    """

    positions: Int32[np.ndarray, "D M"]
    left: Int32[np.ndarray, "D M"]
    above: Int32[np.ndarray, "D M"]


def diagonals(grid: Grid) -> Diagonals:
    """The anti-diagonals from the upper left corner to the lower right one, by grid row or, if there are fewer columns,
    by column: so the neighbour across keeps its place."""
    R, C = grid.rows, grid.cols
    place, number = np.arange(min(R, C)), np.arange(R + C - 1)[:, None]
    row, col = (place, number - place) if R <= C else (number - place, place)
    inside = (row >= 0) & (row < R) & (col >= 0) & (col < C)
    same, before = (
        np.broadcast_to(index, inside.shape).astype(np.int32) for index in (place, np.maximum(place - 1, 0))
    )
    positions = np.where(inside, row * C + col, grid.size).astype(np.int32)
    return Diagonals(positions, *((same, before) if R <= C else (before, same)))
