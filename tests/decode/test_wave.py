"""The wave: when its tokens are drafted, fed, corrected and final; and that a steep one is `ar`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy

from ssd_jax.decode.schedule import slanted
from ssd_jax.decode.wave import Wave
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRID, FLAT = Grid(4, 5), Wave(down=1, right=0, depth=1)
SCHEDULES = pytest.mark.parametrize(
    ("grid", "down", "right", "depth"),
    [
        (GRID, 1.5, 0.5, 3),
        (Grid(16, 16), 1.5, 0.5, 3),
        (Grid(9, 4), 1, 0, 1),
        (Grid(3, 11), 1, 2, 2),
        (Grid(5, 6), 1.1, 0.7, 100),
        (Grid(1, 7), 1, 0.5, 2),
        (Grid(7, 1), 3.5, 1, 1),
    ],
    ids=str,
)


def drawn(numbers, grid):
    return np.asarray(numbers).reshape(grid.rows, grid.cols).tolist()


def sets(table, grid):
    return [set(line[line < grid.size].tolist()) for line in table]


def test_a_small_schedule_by_hand():
    plan = slanted(Grid(3, 4), 1.5, 0.5, 2)
    assert drawn(plan.final, Grid(3, 4)) == [[1, 2, 3, 3], [3, 4, 4, 5], [5, 5, 6, 6]]
    assert plan.drafted.tolist() == [1, 2, 3]
    # Pass 3: row 1 is new; of row 0 position 1 has just become final, 2 and 3 do so now.
    assert sets(plan.live, Grid(3, 4))[1] == {2, 3, 4, 5, 6, 7}
    assert sets(plan.fed, Grid(3, 4))[1] == {1, 2, 3, 4, 5, 6, 7}
    assert plan.new.tolist() == [0, 1, 2, -1, -1] and plan.below.tolist() == [1, 2, 3, 3, 3]
    assert plan.ends == 2  # pass 3 feeds both ends of rows 0 and 1


@pytest.mark.parametrize(("down", "right"), [(1.2, 0.6), (1.1, 0.7), (2.3, 0.8)])
def test_times_are_those_of_exact_arithmetic(down, right):
    row, col = np.divmod(np.arange(24 * 24), 24)
    exact = 2 + (round(10 * down) * row + round(10 * right) * col) // 10
    np.testing.assert_array_equal(slanted(Grid(24, 24), down, right, 3).final[1:], exact[1:])


@pytest.mark.parametrize(("right", "settled"), [(0, 0.0), (0.5, 0.5), (1, 1.0), (2, 1.0)])
def test_how_many_tokens_find_their_left_neighbour_final(right, settled):
    final = slanted(Grid(16, 16), 1.5, right, 3).final.reshape(16, 16)
    assert np.mean(final[1:, :-1] < final[1:, 1:]) == pytest.approx(settled, abs=0.05)
    assert (final[:-1] < final[1:]).all()  # and the one above


def test_an_eighth_of_a_pass_per_token():
    """The preset on the bundled model's grid: 32 passes for 256 tokens, 60 of them in a window."""
    plan = Wave().schedule(Grid(16, 16))
    assert Wave().passes(Grid(16, 16)) == 256 / 8 and plan.fed.shape == (31, 60)


@SCHEDULES
def test_what_every_pass_may_rely_on(grid, down, right, depth):
    plan = slanted(grid, down, right, depth)
    fed, live = sets(plan.fed, grid), sets(plan.live, grid)
    rows = np.arange(grid.size) // grid.cols
    before, corrections = set(), np.zeros(grid.size, int)
    for k, (feeds, corrects) in enumerate(zip(fed, live, strict=True), start=2):
        line = k - 2
        drafted = set(np.flatnonzero(plan.drafted[rows] < k).tolist())
        assert feeds | corrects <= drafted  # only what is there
        assert {i - 1 for i in corrects} <= feeds  # which gives p
        assert set(np.flatnonzero(plan.final == k).tolist()) <= corrects  # a final token was drawn in that pass
        assert set(np.flatnonzero(plan.final == k - 1).tolist()) - {grid.size - 1} <= feeds  # and is fed in the next
        assert not any(plan.final[i] < k for i in corrects)
        assert drafted - {grid.size - 1} <= before | feeds  # rows are in the cache as a whole: there are no holes
        assert sum(i % grid.cols == grid.cols - 1 for i in feeds) <= plan.ends
        for position, output in zip(plan.live[line], plan.outputs[line], strict=True):
            assert position == grid.size or plan.fed[line, output] == position - 1
        if plan.new[line] >= 0:
            newest = plan.new[line]
            row = np.arange(grid.cols) + newest * grid.cols
            predicted = plan.fed[line, plan.states[line]] + 1
            assert (
                predicted[int(newest == 0) :].tolist() == row[int(newest == 0) :].tolist()
            )  # the prefill predicts token 0
        assert plan.below[line] in (newest + 1, grid.rows)
        before |= feeds
        corrections[list(corrects)] += 1
    assert sorted(plan.below[plan.below < grid.rows].tolist()) == list(range(1, grid.rows))
    assert (corrections[1:] >= 1).all()
    assert corrections.max() <= depth + 1


def test_heads_draft_a_row_from_the_states_that_predicted_the_one_above():
    """What the heads are given is what one pass over the same tokens gives, and for token 0 what the prefill gave."""
    grid, given = Grid(2, 3), []
    verifier, cache, hidden = stub.stub(1, grid, image_keys(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)))

    def draft(states, codes, columns, offsets, count=None):
        jax.debug.callback(lambda *values: given.append(values), states, codes, ordered=True)
        return verifier.draft(states, codes, columns, offsets, count)

    start, steep = 3.0 * hidden, Wave(down=grid.cols, right=1, depth=1)
    plan = steep.schedule(grid)
    assert plan.new[plan.below == 1] == -1  # row 1 is drafted after a pass that fed no new row: the states were kept
    out = jax.jit(lambda cache: steep.run(stub.changed(verifier, draft=draft), cache, start, grid))(cache)
    jax.effects_barrier()
    states, codes = given[-1]
    np.testing.assert_array_equal(codes, out.tokens[:, : grid.cols])
    forced, _ = verifier.verify(cache, out.tokens, jnp.arange(grid.size)[None])
    # Row 0's states are those of the pass that fed it first; token 1 was its draft then.
    np.testing.assert_allclose(states[:, :2], jnp.concatenate([start, forced[:, :1]], axis=1), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize(("heads", "drafter"), [("random", "spatial"), ("wrong", "spatial"), (None, "random")])
def test_with_a_pass_for_every_token_it_draws_what_ar_draws(heads, drafter, depth):
    steep = Wave(down=GRID.cols, right=1, depth=depth, drafter=drafter)
    out = toy.decode(toy.TOY, steep, GRID, heads=heads)
    np.testing.assert_array_equal(out.tokens, toy.decode(toy.TOY, "ar", GRID).tokens)
    assert np.asarray(out.passes).tolist() == [GRID.size + 1] * 4


def test_a_flat_one_does_not():
    """Negative control: with whole rows settling at once images differ."""
    flat = toy.decode(toy.TOY, FLAT, GRID)
    assert np.mean(np.asarray(flat.tokens) != np.asarray(toy.decode(toy.TOY, "ar", GRID).tokens)) > 0.2


def test_an_image_does_not_depend_on_its_batch():
    alone = [toy.decode(toy.TOY, FLAT, GRID, images=1, numbers=[n], which=0).tokens[0] for n in (3, 0)]
    together = toy.decode(toy.TOY, FLAT, GRID, images=4, numbers=[3, 0, 1, 2], which=0).tokens
    np.testing.assert_array_equal(together[:2], alone)
