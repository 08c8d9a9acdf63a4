"""Maps grid positions of an image to places in the sequence, cache slots and rotary positions.

The cache slots of one batch row are

    [padding ...] [prompt, ending in begin-of-image] [place 0] [place 1] ...
     0             S - prompt length                  S         S + 1

Prompts are left-padded, so token i, at place `Layout.places(i)`, has the same slot for every image of a batch; the
hidden state one place before it predicts it. Rotary positions count from the first real prompt token.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

Positions = TypeVar("Positions", int, Int[np.ndarray, "..."], Int[Array, "..."])
"""One position, or an array of them."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The token grid of an image; position i (raster order) is at grid row i // cols, column i % cols."""

    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Number of visual tokens, R*C."""
        return self.rows * self.cols

    def targets(
        self, offsets: tuple[tuple[int, int], ...]
    ) -> tuple[Int32[np.ndarray, "O {self.size}"], Bool[np.ndarray, "O {self.size}"]]:
        """The target position of every (down, right) offset (none negative) from every position, 0 where invalid, and
        whether it is valid: inside the grid, without wrapping to the next grid row."""
        row, col = np.divmod(np.arange(self.size), self.cols)
        to_row = row + np.array([down for down, _ in offsets]).reshape(-1, 1)
        to_col = col + np.array([right for _, right in offsets]).reshape(-1, 1)
        valid = (to_row < self.rows) & (to_col < self.cols)
        return np.where(valid, to_row * self.cols + to_col, 0).astype(np.int32), valid


class Window(NamedTuple):
    """The input of a verifier pass: W visual tokens, then E slots for the row ends that follow some of them.

    Attributes:
        places: places of the Z = W + E inputs; padding has places past the end of the image.
        outputs: for each visual token, the index among the Z of the state that predicts the next visual token.
    """

    places: Int32[Array, "B Z"]
    outputs: Int32[Array, "B W"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an image's tokens are laid out in the sequence. Places count from the image's first token.

    Some backbones (Emu3, Emu3.5, Lumina-mGPT) were trained with a token at the end of every grid row. It is forced, so
    it is fed together with the row's last token and never sampled. On a grid of 2 x 3 (E: row end)::

        place                 0 1 2 3 4 5 6             0 1 2 3 4 5
        token, row ends       0 1 2 E 3 4 5    none     0 1 2 3 4 5

    The end of the last grid row predicts nothing and has no place.

    Attributes:
        grid: R and C.
        row_ends: whether grid rows end with a row-end token.
    """

    grid: Grid
    row_ends: bool = False

    @property
    def pitch(self) -> int:
        """Number of places from a token to the token below it."""
        return self.grid.cols + self.row_ends

    @property
    def length(self) -> int:
        """Number of places, R*C or R*C + R - 1."""
        return self.grid.size + self.row_ends * (self.grid.rows - 1)

    def places(self, positions: Positions) -> Positions:
        """Places of grid positions, in the same shape; positions past the grid get places past the image."""
        return positions + positions // self.grid.cols if self.row_ends else positions

    def window(self, positions: Int32[Array, "B W"], ends: int | None = None) -> Window:
        """The input window for the visual tokens at `positions`, with row ends; padding has position R*C or more.

        Positions are consecutive or, with `ends` given (a slanted front, say), any distinct ones of which at most
        `ends` are the last of their grid row.
        """
        W = positions.shape[1]
        ends = min(-(-W // self.grid.cols) if ends is None else ends, self.grid.rows - 1)
        places = jnp.where(positions < self.grid.size, self.places(positions), self.length)
        # The end of the last grid row has no place.
        ending = (positions % self.grid.cols == self.grid.cols - 1) & (places + 1 < self.length)
        slot = jnp.where(ending, W - 1 + jnp.cumsum(ending, axis=1), W + ends)
        places = jnp.pad(places, ((0, 0), (0, ends)), constant_values=self.length)
        places = jax.vmap(lambda each, slot, end: each.at[slot].set(end, mode="drop"))(places, slot, places[:, :W] + 1)
        return Window(places, jnp.where(ending, slot, jnp.arange(W, dtype=jnp.int32)))

    def sequence(self) -> tuple[Int32[np.ndarray, " {self.length}"], Bool[np.ndarray, " {self.length}"]]:
        """For every place of the image: the position of its token (for a row end, of the token before it), and whether
        it is a row end."""
        places = np.arange(self.length)
        row_end = places % self.pitch == self.grid.cols
        return (places - self.row_ends * (places // self.pitch) - row_end).astype(np.int32), row_end


def prompt_starts(prompt_mask: Bool[Array, "B S"]) -> Int32[Array, " B"]:
    """First real slot of every batch row; padding is on the left."""
    return prompt_mask.shape[1] - prompt_mask.sum(axis=1, dtype=jnp.int32)


def rotary_positions(slots: Int32[Array, "B W"], starts: Int32[Array, " B"]) -> Int32[Array, "B W"]:
    """Rotary position of every slot; 0 for the padding before the prompt."""
    return jnp.maximum(slots - starts[:, None], 0)
