"""Losses of whole pictures a band of rows at a time: with 8100 positions and 32768 codes they do not fit at once."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.training.losses import valid_mean

LIMIT = 2**27
"""Numbers in the largest array of a band, about: half a gigabyte in float32, of which a loss has several."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What heads are trained for, and how much of it is done at once.

    Attributes:
        model, heads: the backbone's config and the heads'.
        grid: of the pictures.
        matmul: one of `PRODUCTS`, for the products of the training steps.
        window: positions that a forward of the backbone sees at once; 0 is all (see `models.forced`).
        accumulation: in how many parts a batch is gone through.
        limit: see `LIMIT`.
    """

    model: ModelConfig
    heads: HeadsConfig
    grid: Grid
    matmul: str = "float32"
    window: int = 0
    accumulation: int = 1
    limit: int = LIMIT


def mean_over_bands(
    values: Callable[..., jax.Array], setup: Setup, width: int, hidden: jax.Array, embeddings: jax.Array
) -> jax.Array:
    """The mean of a value over all sources whose targets lie in the row and the grid, [O].

    Args:
        values: (hidden, embeddings [B, P, D], columns int32 [B, P], states [B, Q, D], where int32 [O, P]) -> [O, ?, P]:
            the value of P sources at every offset; the states are those of the sources and of as many rows below them
            as the heads reach, and state `where` is the source's target.
        setup: grid and offsets.
        width: numbers that `values` has for every source and offset; decides how high a band is.
        hidden, embeddings: h and e of all tokens, [B, R*C, D].
    """
    grid, offsets = setup.grid, setup.heads.offsets
    B, C = hidden.shape[0], grid.cols
    columns = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32) % C, hidden.shape[:2])
    where, valid = grid.targets(offsets)
    rows = max(1, setup.limit // (len(offsets) * B * C * width))
    rows = next(n for n in range(min(rows, grid.rows), 0, -1) if grid.rows % n == 0)
    if rows == grid.rows:
        return valid_mean(values(hidden, embeddings, columns, hidden, where), valid[:, None])
    P, reach = rows * C, setup.heads.vertical * C
    where = Grid(rows + setup.heads.vertical, C).targets(offsets)[0][:, :P]
    padded = jnp.pad(hidden, ((0, 0), (0, reach), (0, 0)))

    @jax.checkpoint  # a band's arrays are made again for its gradient, not kept
    def band(start: jax.Array) -> jax.Array:
        def cut(x: jax.Array, length: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)

        found = values(cut(hidden, P), cut(embeddings, P), cut(columns, P), cut(padded, P + reach), where)
        return jnp.where(cut(jnp.asarray(valid), P)[:, None], found, 0.0).mean(axis=1).sum(axis=1)

    sums = jax.lax.map(band, jnp.arange(0, grid.size, P, dtype=jnp.int32)).sum(axis=0)
    return sums / jnp.maximum(valid.sum(axis=1), 1)
