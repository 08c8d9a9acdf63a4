"""What a loop keeps from pass to pass: a cache without anything stale, and a place of its own for every image.

At the end the cache is that of a fresh pass over the final tokens. This holds for the inputs the loop still needs: for
loops that commit in raster order and for the row loop (whose last pass is a commit pass, or, with rounds="auto", a pass
that changed nothing) up to and including token R*C - 2; for a wave that commits tokens in raster order,
down >= right * (C - 1), up to the first token of its last pass. Other waves leave the keys of tokens that were final
before all that comes before them: at the end these are of contexts that have changed since. A tree leaves stale keys of
the newest tokens, which it may have taken from beside the window.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy
from stub import assert_counted

from ssd_jax.decode.acceptance import COUPLINGS
from ssd_jax.decode.cost import total
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.wave import Wave
from ssd_jax.sequence.layout import Grid

GRID, IMAGES = Grid(4, 5), 8
RASTER = [
    Raster(window=4, drafter="random", coupling="resample"),
    Raster(window=4, drafter="above", coupling="maximal"),
    Raster(window=4, drafter="horizontal", coupling="gumbel"),
    Raster(window=4, drafter="spatial", coupling="match"),
    Raster(window=1, drafter="spatial", coupling="match"),  # what is written depends on the window alone
    Raster(window=50, drafter="spatial", coupling="resample"),
    Tree(window=13, candidates=3, depth=3),
    Tree(window=5, candidates=2, depth=2),
    MTP(drafts=1),
    MTP(drafts=3),
]
ROWS = [
    SSD(rounds=0),
    SSD(rounds=2),
    SSD(rounds="auto"),
    SSD(rounds="auto", rows=2),
    SSD(rounds=1, extra_rounds=1, rows=2, schedule="staged"),
    SSD(rounds=1, rows=2, mask="row"),
]
IN_ORDER = [Wave(1, 0, depth=1), Wave(2, 0.5, depth=3, drafter="above"), Wave(4, 1, depth=2), Wave(2.5, 0, depth=4)]
SLANTED = Wave(1, 1, depth=2)


def settled(decoder) -> int:
    """The first position that the cache need not be right for."""
    if isinstance(decoder, Wave):
        return int(np.argmax(decoder.schedule(GRID).final == decoder.passes(GRID)))
    return GRID.size - getattr(decoder, "depth", 1)


@pytest.mark.parametrize("decoder", ["ar", *RASTER, *ROWS, *IN_ORDER], ids=str)
def test_stub(decoder):
    out = stub.decode(decoder, GRID, images=IMAGES)
    fresh = stub.fresh_cache(out.tokens, GRID)
    right = settled(decoder)
    np.testing.assert_allclose(out.cache.first[:, :right], fresh.first[:, :right], atol=1e-6)
    np.testing.assert_allclose(out.cache.second[:, :right], fresh.second[:, :right], atol=1e-5)


@pytest.mark.parametrize("decoder", [RASTER[1], ROWS[4], IN_ORDER[1]], ids=str)
def test_transformer(decoder):
    out = toy.decode(toy.TOY, decoder, GRID, images=6)
    _, _, fresh = toy.forced(toy.TOY, out.tokens, GRID)
    right = toy.PROMPT + settled(decoder)
    largest = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)[:, :, :right]), out.cache, fresh)
    assert max(jax.tree.leaves(largest)) < 1e-4


def test_a_slanted_wave_leaves_older_states():
    """First-layer keys depend on a token alone and are right; deeper ones are of the context in its last pass."""
    out = stub.decode(SLANTED, GRID, images=IMAGES)
    fresh, right = stub.fresh_cache(out.tokens, GRID), settled(SLANTED)
    np.testing.assert_allclose(out.cache.first[:, :right], fresh.first[:, :right], atol=1e-6)
    assert np.abs(out.cache.second - fresh.second)[:, :right].max() > 1e-2


FOUR = [*RASTER[:4], MTP(drafts=3), Tree(window=5, candidates=2, depth=2)]
"""Decoders that commit at most four tokens per pass."""


@pytest.mark.parametrize("decoder", FOUR, ids=str)
def test_every_pass_in_raster_order_commits_a_run_of_tokens(decoder):
    out = stub.decode(decoder, GRID, images=IMAGES)
    assert_counted(out)
    for passes, trace in zip(np.asarray(out.passes), np.asarray(out.trace), strict=True):
        assert (np.diff(trace) >= 0).all()  # in raster order
        committed = np.bincount(trace, minlength=passes + 1)[1:]
        assert (committed >= 1).all() and committed.max() <= 4
    assert len(set(np.asarray(out.passes).tolist())) > 1  # each image at its own speed
    assert np.asarray(out.passes).min() >= total(decoder.stretches(GRID, 5)) == 1 + 5


def test_these_are_all_couplings():
    assert {decoder.coupling for decoder in RASTER[:4]} == set(COUPLINGS)


@pytest.mark.parametrize(
    "decoder",
    [
        *RASTER[:4],
        Raster(window=4, drafter="above", coupling="match", history=3),
        Raster(window=50, drafter="spatial", coupling="resample"),
        Tree(window=5, candidates=2, depth=2),
        MTP(drafts=3),
        SSD(rounds="auto"),
        SSD(rounds="auto", rows=2),
    ],
    ids=str,
)
def test_a_slow_image_does_not_change_the_others(decoder):
    """Images, passes and trace are those each image has among copies of itself, which are as fast as it is."""
    numbers = list(range(IMAGES))
    together = stub.decode(decoder, GRID, numbers=numbers)
    assert len(set(np.asarray(together.passes).tolist())) > 1
    for index, number in enumerate(numbers):
        alone = stub.decode(decoder, GRID, numbers=[number] * IMAGES)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[index])
        np.testing.assert_array_equal(alone.trace[0], together.trace[index])
        assert int(alone.passes[0]) == int(together.passes[index])
