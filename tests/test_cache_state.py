"""Nothing stale is ever attended to: at the end the cache is that of a fresh pass over the final tokens.

It holds for the inputs the loop still needs: for the raster loop and for the row loop (whose last pass is a commit
pass, or, with rounds="auto", a pass that changed nothing) up to and including token R*C - 2; for the wave up to the end
of row R - 2, because its last pass still corrects the last row.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy

from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.wave import Wave
from ssd_jax.layout import Grid

GRID = Grid(4, 5)
RASTER = [
    Raster(window=4, drafter="random", coupling="resample"),
    Raster(window=4, drafter="above", coupling="maximal"),
    Raster(window=4, drafter="horizontal", coupling="gumbel"),
    Raster(window=4, drafter="spatial", coupling="match"),
    Raster(window=1, drafter="spatial", coupling="match"),  # what is written depends on the window alone
    Raster(window=50, drafter="spatial", coupling="resample"),
]
ROWS = [
    SSD(rounds=0),
    SSD(rounds=2),
    SSD(rounds="auto"),
    SSD(rounds="auto", rows=2),
    SSD(rounds=1, extra_rounds=1, rows=2, schedule="staged"),
    SSD(rounds=1, rows=2, mask="row"),
]
WAVES = [Wave(rows=1), Wave(rows=2), Wave(rows=3, mask="row")]


@pytest.mark.parametrize("decoder", ["ar", *RASTER, *ROWS, *WAVES], ids=str)
def test_stub(decoder):
    out = stub.decode(decoder, GRID, images=6)
    fresh = stub.fresh_cache(out.tokens, GRID)
    right = (GRID.rows - 1) * GRID.cols if isinstance(decoder, Wave) else GRID.size - 1
    np.testing.assert_array_equal(out.cache.first[:, :right], fresh.first[:, :right])
    np.testing.assert_allclose(out.cache.second[:, :right], fresh.second[:, :right], atol=1e-5)


@pytest.mark.parametrize("decoder", [RASTER[1], ROWS[4], WAVES[1]], ids=str)
def test_transformer(decoder):
    out = toy.decode(toy.TOY, decoder, GRID, images=6)
    _, _, fresh = toy.forced(toy.TOY, out.tokens, GRID)
    right = toy.PROMPT + ((GRID.rows - 1) * GRID.cols if isinstance(decoder, Wave) else GRID.size - 1)
    largest = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)[:, :, :right]), out.cache, fresh)
    assert max(jax.tree.leaves(largest)) < 1e-4
