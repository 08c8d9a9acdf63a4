"""`passes` and `trace` are what happened: they equal the number of verifier calls, and the published formulas."""

from math import ceil, floor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stub import V, assert_counted, changed, decode, stub

from ssd_jax.decode.cost import Stretch, total
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.wave import Wave
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRIDS = [Grid(1, 7), Grid(7, 1), Grid(3, 7)]
ONE_ROW = [SSD(rounds=0), SSD(rounds=2)]
WAVES = [Wave(), Wave(down=1, right=0, depth=1), Wave(down=2.5, right=2, depth=4, drafter="above")]
TWO_ROWS = [PRESETS["ssd2"], SSD(rounds=1, rows=2, mask="row")]  # only these care whether R is even


def expected_passes(decoder, grid, horizontal=5):
    """The formulas of method.md and of the decoders' docstrings, written out again."""
    below, beside = grid.rows - 1, grid.cols - 1
    if isinstance(decoder, Wave):
        return 2 + floor(decoder.down * below + decoder.right * beside) if grid.size > 1 else 1
    return 1 + 2 * ceil(beside / horizontal) + ceil(below / decoder.rows) * (decoder.rounds + decoder.extra_rounds + 1)


@pytest.mark.parametrize("rounds, passes", [(0, 34), (1, 57), (2, 80)])
def test_the_papers_counts_on_24x24(rounds, passes):
    decoder, grid = SSD(rounds=rounds), Grid(24, 24)
    assert expected_passes(decoder, grid) == total(decoder.stretches(grid, 5)) == passes
    if rounds == 1:
        out = decode(decoder, grid, images=1)
        assert_counted(out)
        assert np.asarray(out.passes).tolist() == [passes]


def test_two_rows_on_48x48():
    """16.7 times fewer passes than one per token and row end, the paper's figure for Lumina-mGPT."""
    assert expected_passes(PRESETS["ssd2"], Grid(48, 48)) == 141


@pytest.mark.parametrize(
    ("decoder", "grid"),
    [(decoder, grid) for decoder in ONE_ROW + TWO_ROWS for grid in GRIDS[1:]]
    + [(decoder, Grid(1, 7)) for decoder in (SSD(rounds=0), PRESETS["ssd2"])]  # row 0 has one round, whatever is asked
    + [(decoder, grid) for decoder in WAVES for grid in GRIDS]
    + [(decoder, Grid(4, 6)) for decoder in TWO_ROWS]
    + [(decoder, Grid(1, 1)) for decoder in (SSD(), Wave())],
    ids=lambda value: f"{value.rows}x{value.cols}" if isinstance(value, Grid) else str(value),
)
def test_loops_with_a_plan_take_the_formulas_count(decoder, grid):
    out = decode(decoder, grid, images=2)
    assert_counted(out)
    assert (np.asarray(out.passes) == expected_passes(decoder, grid)).all()
    assert total(decoder.stretches(grid, 5)) == expected_passes(decoder, grid)


ADAPTIVE = [Raster(window=5, drafter="left"), Raster(rows=1), MTP(), MTP(drafts=2), MTP(drafts=9), SSD(rounds="auto")]


@pytest.mark.parametrize("decoder", ADAPTIVE, ids=str)
def test_the_fewest_passes_are_those_with_every_draft_accepted(decoder):
    """A model that draws code 0 everywhere, and heads that know it."""
    grid = Grid(4, 6)
    verifier, cache, hidden = stub(1, grid, image_keys(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)))
    certain = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)

    def log_p(hidden):
        return jnp.broadcast_to(certain, (*hidden.shape[:-1], V))

    def draft(hidden, codes, columns, offsets, count=None):
        return jnp.stack([log_p(hidden[:, :count])] * len(offsets), axis=1)

    verifier = changed(verifier, log_p=log_p, draft=draft)
    out = jax.jit(lambda cache: decoder.run(verifier, cache, hidden, grid))(cache)
    assert int(out.passes[0]) == total(decoder.stretches(grid, verifier.horizontal))
    if isinstance(decoder, MTP):  # there are five heads
        assert int(out.passes[0]) == 1 + ceil((grid.size - 1) / (min(decoder.drafts, 5) + 1))


def test_an_adaptive_decoder_is_told_its_passes():
    for name, decoder in PRESETS.items():
        known = total(decoder.stretches(Grid(24, 24), 5))
        assert total(decoder.stretches(Grid(24, 24), 5, passes=192)) == (192 if decoder.adaptive else known), name
    assert total(PRESETS["ar"].stretches(Grid(24, 24))) == 576
    assert total(SSD(rounds="auto").stretches(Grid(24, 24), 5, passes=192)) == 192


def test_stretches_say_how_wide_the_passes_are():
    """Of ssd on 24 x 24: windows of five tokens in row 0, then of a row; the commit passes draw nothing."""
    assert PRESETS["ssd"].stretches(Grid(24, 24), 5) == (
        Stretch(passes=1, window=0, outputs=1),
        Stretch(passes=5, window=5, outputs=5, drafts=5, horizontal=5, sources=1),
        Stretch(passes=5, window=5, outputs=0),
        Stretch(passes=46, window=24, outputs=24, drafts=23, vertical=1, sources=24),
        Stretch(passes=23, window=24, outputs=0),
    )


def test_rows_settle_when_their_rounds_end():
    trace = np.asarray(decode(SSD(rounds=2), Grid(3, 7), images=2).trace)[0].reshape(3, 7)
    assert trace.tolist() == [[1, 2, 2, 2, 2, 2, 4], [7] * 7, [10] * 7]
    trace = np.asarray(decode(PRESETS["ssd2"], Grid(4, 6), images=2).trace)[0].reshape(4, 6)
    assert trace.tolist() == [[1, 2, 2, 2, 2, 2], [5] * 6, [7] * 6, [12] * 6]


@pytest.mark.parametrize(
    "grid", [Grid(1, 1), Grid(1, 7), Grid(7, 1), Grid(4, 5)], ids=lambda grid: f"{grid.rows}x{grid.cols}"
)
@pytest.mark.parametrize("drafter", ["spatial", "above", "random"])
def test_tokens_are_final_when_the_schedule_says(grid, drafter):
    decoder = Wave(drafter=drafter)
    out = decode(decoder, grid, images=2)
    np.testing.assert_array_equal(out.trace, [decoder.schedule(grid).final] * 2)
    assert np.asarray(out.passes).tolist() == [decoder.passes(grid)] * 2
