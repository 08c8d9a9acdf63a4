"""The loops as programs: one trace per shape, odd grids, and what couplings and groups cost; for copies see
test_cache_moves, for what a loop keeps test_cache_state."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import stub
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.acceptance import Group
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
    call = dict(images=2, program=engine.decode)
    jax.clear_caches()
    before = engine.decode._cache_size()
    toy.decode(SMALL, decoder, grid, **call)
    assert engine.decode._cache_size() == before + 1
    toy.decode(SMALL, decoder, grid, seed=7, cfg_scale=4.0, temperature=0.0, top_k=3, top_p=0.5, **call)
    toy.decode(SMALL, decoder, grid, heads="random", which=1, **call)
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


BROAD = Raster(window=16, drafter="random", coupling="resample")
FLAT = dict(grid=Grid(8, 8), images=32, sharpness=0.25)
"""Laws under which p hardly changes from pass to pass."""


def test_resampling_takes_clearly_more_passes_than_coupling():
    """On flat laws p hardly moves, but two draws differ. A noise shared by mistake makes them equal."""
    passes = {}
    for coupling in ("resample", "maximal", "gumbel"):
        passes[coupling] = float(stub.decode(replace(BROAD, coupling=coupling), **FLAT).passes.mean())
    print(passes)  # 15.5, 13.8, 13.6
    assert passes["resample"] > 1.08 * max(passes["maximal"], passes["gumbel"])


def test_groups_take_fewer_passes():
    grouped = stub.decode(replace(BROAD, acceptance="grouped", group=Group(5, None)), **FLAT)
    assert grouped.passes.mean() < stub.decode(BROAD, **FLAT).passes.mean() - 2  # 12.4 and 15.5


def test_a_group_of_one_decodes_the_same_pictures():
    token, grouped = (
        stub.decode(decoder, **FLAT) for decoder in (BROAD, replace(BROAD, acceptance="grouped", group=Group(1)))
    )
    np.testing.assert_array_equal(token.tokens, grouped.tokens)
    np.testing.assert_array_equal(token.passes, grouped.passes)
