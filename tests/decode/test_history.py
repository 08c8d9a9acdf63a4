"""Drafts from earlier passes: the verifier's outputs for the neighbouring tokens that a position has now."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.decode import history
from ssd_jax.sequence.layout import Grid

IMAGES, LETTERS = 8, 3  # few letters, so that surroundings often agree and often tie


remember = jax.jit(history.remember)
recall = jax.jit(history.recall, static_argnames="grid")


def word(passes, tokens, position, cols):
    """What the rule says about a position: (before, after, start, width) of passes from old to new; None if never."""
    best, said = None, None
    for before, after, start, width in passes:
        if start <= position < start + width:
            same = [position >= k and before[position - k] == tokens[position - k] for k in (1, cols, 2)]
            if best is None or same >= best:  # lexicographic; the newer wins a tie
                best, said = same, after[position]
    return said


def passes_of(rng, grid, count, width):
    """Random passes of an image whose window moves on, with what each was given and said."""
    start, found = 1, []
    for _ in range(count):
        before = rng.integers(LETTERS, size=grid.size)
        after = before.copy()
        after[start : start + width] = rng.integers(LETTERS, size=len(after[start : start + width]))
        found.append((before, after, start, width))
        start = min(start + int(rng.integers(1, 3)), grid.size - 1)
    return found


def remembered(images, grid, size):
    """A history of several images' passes, the first of image b being pass 2 + b; and the images' clocks."""
    past = history.empty(len(images), size, grid)
    for number in range(len(images[0])):
        befores, afters, starts, widths = zip(*(passes[number] for passes in images), strict=True)
        positions = jnp.array(starts)[:, None] + jnp.arange(widths[0])[None]
        clock = jnp.arange(len(images)) + 2 + number
        past = remember(past, clock, jnp.array(befores), jnp.array(afters), positions)
    return past, clock


@pytest.mark.parametrize(
    ("grid", "width", "count", "size"),
    [
        (Grid(4, 5), 9, 6, 4),  # the oldest passes are forgotten
        (Grid(4, 5), 9, 2, 4),  # not full yet
        (Grid(4, 6), 4, 7, 8),  # the token above is left of the window
        (Grid(20, 1), 9, 5, 8),  # the token above is the one to the left
        (Grid(1, 15), 30, 5, 8),  # nothing above; the window reaches past the end
        (Grid(2, 3), 1, 3, 2),  # no drafts
    ],
)
def test_every_sweep_is_the_rule(grid, width, count, size):
    rng = np.random.default_rng(0)
    images = [passes_of(rng, grid, count, width) for _ in range(IMAGES)]
    past, clock = remembered(images, grid, size)
    tokens = np.stack([passes[-1][1] for passes in images])
    starts = np.array([passes[-1][2] for passes in images])
    committed = rng.integers(1, width + 1, size=IMAGES)
    positions = starts[:, None] + np.arange(width)
    out = recall(past, clock, jnp.array(tokens), jnp.array(positions), jnp.array(committed), grid=grid)
    assert out.shape == positions.shape
    changed = 0
    for passes, final, start, now, found in zip(images, committed, starts, tokens, np.asarray(out), strict=True):
        drafts = range(start + final, min(start + width, grid.size))
        expected = now.copy()
        for _ in range(history.SWEEPS):
            expected[drafts] = [word(passes[-size:], expected, position, grid.cols) for position in drafts]
        in_grid = min(width, grid.size - start)
        np.testing.assert_array_equal(found[:in_grid], expected[start : start + in_grid])
        in_turn = now.copy()
        for position in drafts[: history.SWEEPS]:
            in_turn[position] = word(passes[-size:], in_turn, position, grid.cols)
            assert found[position - start] == in_turn[position]
        changed += np.sum(expected != now)
    assert changed > 0 or width == 1


def test_a_draft_that_flips_back():
    """Behind an a the verifier says x y, behind a b it says p q. The a comes back, and x y with it."""
    a, b, x, y, p, q = range(6)
    grid = Grid(1, 4)
    #         given         said
    passes = [([0, a, x, y], [0, b, x, y]), ([0, b, x, y], [0, a, p, q])]
    images = [[(np.array(before), np.array(after), 1, 3) for before, after in passes]]
    past, clock = remembered(images, grid, 8)
    now = jnp.array([passes[-1][1]])
    positions, committed = jnp.array([[1, 2, 3]]), jnp.array([1])
    assert history.recall(past, clock, now, positions, committed, grid).tolist() == [[a, x, y]]
    # A pass that is remembered by itself has nothing to say against its own drafts.
    alone, clock = remembered([images[0][1:]], grid, 8)
    assert history.recall(alone, clock, now, positions, committed, grid).tolist() == [[a, p, q]]


def test_final_tokens_stay_and_drafts_follow_those_to_their_left():
    grid = Grid(1, 4)
    zero, one = np.zeros(4, np.int32), np.array([0, 1, 1, 1])
    images = [[(zero, one, 1, 3), (one, zero, 1, 3)]]
    past, clock = remembered(images, grid, 2)
    for committed, expected in ((3, [0, 0, 0]), (2, [0, 0, 1]), (1, [0, 1, 0])):
        positions, final = jnp.array([[1, 2, 3]]), jnp.array([committed])
        assert history.recall(past, clock, jnp.array([zero]), positions, final, grid).tolist() == [expected]
