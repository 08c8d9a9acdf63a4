"""The loops as programs: one trace per shape, odd grids, images of different speed; for copies see test_cache_moves."""

import numpy as np
import pytest
import stub
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.presets import PRESETS, find_decoder
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.sequence.layout import Grid

SMALL = toy.Toy(toy.config(layers=1))


@pytest.mark.parametrize("decoder", [Raster(window=4, coupling="maximal", drafter="spatial"), SSD(rounds=1)], ids=str)
def test_one_trace_per_shape(decoder):
    """A new seed, scale, temperature, top-k or top-p, new prompts and new heads compile nothing."""
    grid = Grid(2, 3)
    toy.decode(SMALL, decoder, grid, images=2)
    before = engine.decode._cache_size()
    toy.decode(SMALL, decoder, grid, images=2, seed=7, cfg_scale=4.0, temperature=0.0, top_k=3, top_p=0.5)
    toy.decode(SMALL, decoder, grid, images=2, heads="random", which=1)
    assert engine.decode._cache_size() == before
    toy.decode(SMALL, decoder, Grid(3, 2), images=2)
    assert engine.decode._cache_size() == before + 1


ODD = [Grid(1, 1), Grid(1, 9), Grid(9, 1)]
RASTER = [name for name, decoder in PRESETS.items() if isinstance(decoder, Raster | Tree | MTP)]
EVERY_DRAFTER = ["jacobi-match", "jacobi-above", Raster(window=6, drafter="horizontal"), "mtp", "ssd-exact", "sjd-pac"]


@pytest.mark.parametrize(
    ("name", "grid"),
    [(name, Grid(3, 7)) for name in RASTER] + [(name, grid) for name in EVERY_DRAFTER for grid in ODD],
    ids=lambda value: f"{value.rows}x{value.cols}" if isinstance(value, Grid) else str(value),
)
def test_odd_grids(name, grid):
    """Every preset that commits in raster order fills its grid, the match ones with the images of `ar`; for the row
    loops see test_cost.

    What a grid of one row or column is to a preset depends on its drafter alone.
    """
    out = stub.decode(name, grid, images=3)
    tokens, trace = np.asarray(out.tokens), np.asarray(out.trace)
    assert tokens.shape == (3, grid.size) and tokens.min() >= 0 and tokens.max() < stub.V
    assert (trace >= 1).all() and (trace <= np.asarray(out.passes)[:, None]).all()
    oracle = np.asarray(stub.decode("ar", grid, images=3).tokens)
    assert (tokens[:, 0] == oracle[:, 0]).all()
    if getattr(find_decoder(name), "coupling", None) == "match":
        np.testing.assert_array_equal(tokens, oracle)


@pytest.mark.parametrize(
    "decoder",
    [
        Raster(window=5, drafter="random", coupling="resample"),
        Raster(window=5, drafter="horizontal", coupling="maximal"),
        Raster(window=5, drafter="spatial", coupling="gumbel"),
        Raster(window=5, drafter="above", coupling="match", history=3),
        Tree(window=10, candidates=2, depth=3),
        MTP(drafts=4),
        SSD(rounds="auto"),
        SSD(rounds="auto", rows=2),
    ],
    ids=str,
)
def test_a_slow_image_does_not_change_the_others(decoder):
    """Images, passes and trace are those each image has among copies of itself, which are as fast as it is."""
    grid, numbers = Grid(3, 6), [0, 1, 2, 3, 4, 5]
    together = stub.decode(decoder, grid, numbers=numbers)
    assert len(set(np.asarray(together.passes).tolist())) > 1
    for index, number in enumerate(numbers):
        alone = stub.decode(decoder, grid, numbers=[number] * len(numbers))
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[index])
        np.testing.assert_array_equal(alone.trace[0], together.trace[index])
        assert int(alone.passes[0]) == int(together.passes[index])


def test_resampling_takes_clearly_more_passes_than_coupling():
    """On flat laws p hardly moves, but two draws differ. A noise shared by mistake makes them equal."""
    passes = {}
    for coupling in ("resample", "maximal", "gumbel"):
        decoder = Raster(window=16, drafter="random", coupling=coupling)
        passes[coupling] = float(stub.decode(decoder, Grid(8, 8), images=32, sharpness=0.25).passes.mean())
    print(passes)  # 15.5, 13.8, 13.6
    assert passes["resample"] > 1.08 * max(passes["maximal"], passes["gumbel"])
