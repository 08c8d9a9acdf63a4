"""Where image tokens sit: grid positions, cache slots, rotary positions.

The cache of a row of the batch holds, slot by slot,

    [padding ...] [prompt, ending in begin-of-image] [token 0] [token 1] ... [token R*C-1]
     0             S - prompt length                  S         S + 1

The hidden state at slot S - 1 + i predicts token i. Prompts are padded on the left, so token i is at slot S + i for
every image of a batch; rotary positions count from the first real prompt token.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """A picture's token grid; position i (raster order) is at row i // cols, column i % cols."""

    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Number of visual tokens, R*C."""
        return self.rows * self.cols

    def targets(self, offsets: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
        """For every (down, right) offset the position it leads to, and whether that is in the row and the grid.

        Returns:
            int32 [O, R*C] positions (0 where invalid) and bool [O, R*C].
        """
        row, col = np.divmod(np.arange(self.size), self.cols)
        to_row = row + np.array([down for down, _ in offsets]).reshape(-1, 1)
        to_col = col + np.array([right for _, right in offsets]).reshape(-1, 1)
        valid = (to_row < self.rows) & (to_col < self.cols)
        return np.where(valid, to_row * self.cols + to_col, 0).astype(np.int32), valid


def prompt_starts(prompt_mask: jax.Array) -> jax.Array:
    """First real slot of every row, int32 [B]; prompt_mask is bool [B, S], padding on the left."""
    return prompt_mask.shape[1] - prompt_mask.sum(axis=1, dtype=jnp.int32)


def rotary_positions(slots: jax.Array, starts: jax.Array) -> jax.Array:
    """Rotary position of every slot, int32 [B, W]; padding slots give 0."""
    return jnp.maximum(slots - starts[:, None], 0)
