"""The block masks on a 4 x 4 grid, by hand, and what a window may never see."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.sequence.layout import Grid, Layout
from ssd_jax.sequence.masks import causal, row, row_causal

FIRST = 2  # slot of grid position 0: a prompt of two slots, the first of them padding
LENGTH = FIRST + 16
START = jnp.array([1])


def drawn(text: str) -> np.ndarray:
    return np.array([[c in "xe" for c in line.replace(" ", "")] for line in text.strip().splitlines()])


def slots(first: int, last: int):
    return jnp.arange(FIRST + first, FIRST + last + 1, dtype=jnp.int32)[None]


def rows_1_and_2(above: str) -> np.ndarray:
    """What inputs 3 .. 10, which predict positions 4 .. 11, see; `above` is what row 2 sees of row 1."""
    return drawn(f"""
        .x xxxx .... .... ....
        .x xxxx x... .... ....
        .x xxxx xx.. .... ....
        .x xxxx xxx. .... ....
        .x xxxx xxxx .... ....
        .x xxxx {above} x... ....
        .x xxxx {above} xx.. ....
        .x xxxx {above} xxx. ....
    """)


def test_raster_mask_of_rows_1_and_2():
    """Everything earlier, the row above included; not the padding slot."""
    np.testing.assert_array_equal(causal(slots(3, 10), START, LENGTH)[0], rows_1_and_2(above="xxxx"))


def test_row_mask_of_rows_1_and_2():
    """With row 0 committed: a row of the block does not see the other."""
    seen = row(slots(3, 10), START, jnp.array([FIRST + 4]), FIRST, 4, LENGTH)[0]
    np.testing.assert_array_equal(seen, rows_1_and_2(above="...."))


def test_with_row_ends_a_row_is_a_slot_longer():
    """Inputs 7 .. 15 of a 4 x 4 grid with a row end e behind each row but the last, rows 0 and 1 committed."""
    layout = Layout(Grid(4, 4), row_ends=True)
    expected = drawn("""
        .x xxxxe xxxx. ..... ....
        .x xxxxe xxxxe ..... ....
        .x xxxxe xxxxe x.... ....
        .x xxxxe xxxxe xx... ....
        .x xxxxe xxxxe xxx.. ....
        .x xxxxe xxxxe xxxx. ....
        .x xxxxe xxxxe xxxxe ....
        .x xxxxe xxxxe ..... x...
        .x xxxxe xxxxe ..... xx..
        .x xxxxe xxxxe ..... xxx.
        .x xxxxe xxxxe ..... xxxx
    """)
    window = FIRST + jnp.arange(layout.places(7), layout.length, dtype=jnp.int32)[None]
    committed = FIRST + layout.places(jnp.array([8]))
    mask = row(window, START, committed, FIRST, layout.pitch, FIRST + layout.length)
    np.testing.assert_array_equal(mask[0], expected)


@pytest.mark.parametrize(
    ("row_ends", "expected"),
    [
        (
            False,
            """
            .x xxx. .... .... ....
            .x xxxx x... .... ....
            .x xxxx xx.. .... ....
            .x xxx. x..x .... ....
            .x xxx. x..x x... ....
            """,
        ),
        (
            True,
            """
            .x xxx.. ..... ..... ....
            .x xxx.e x.... ..... ....
            .x xxx.e xx... ..... ....
            .x xxx.e x...e ..... ....
            .x xxx.e x...e x.... ....
            """,
        ),
    ],
    ids=["plain", "row ends"],
)
def test_the_row_causal_mask(row_ends, expected):
    """Rows 0 and 1 have 3 and 1 final tokens; inputs predict 3, 5, 6, 8 and 9, so the fourth stands before row 2."""
    layout = Layout(Grid(4, 4), row_ends)
    before = FIRST + layout.places(jnp.array([[3, 5, 6, 8, 9]], dtype=jnp.int32)) - 1
    counts = jnp.array([[3, 1, 0, 0]], jnp.int32)
    mask = row_causal(before, START, counts, FIRST, layout.pitch, 4, FIRST + layout.length)
    np.testing.assert_array_equal(mask[0], drawn(expected))


@pytest.mark.parametrize("base", [0, 1, 4, 8, 12])
def test_no_mask_shows_the_future_or_padding(base):
    """For any commit point: never later positions, never the padding; always the position itself."""
    window = slots(base, min(base + 7, 15))
    for mask in (causal(window, START, LENGTH), row(window, START, jnp.array([FIRST + base]), FIRST, 4, LENGTH)):
        mask, own = np.asarray(mask[0]), np.asarray(window[0])
        for seen, slot in zip(mask, own, strict=True):
            assert not seen[slot + 1 :].any() and not seen[0] and seen[slot]


def test_with_everything_committed_the_row_mask_is_the_raster_mask():
    window = slots(3, 14)
    everything = jnp.array([FIRST + 16])
    np.testing.assert_array_equal(row(window, START, everything, FIRST, 4, LENGTH), causal(window, START, LENGTH))


def test_a_row_sees_itself_and_what_is_committed_only():
    window, committed = slots(4, 15), 8  # rows 1 .. 3, rows 0 and 1 committed
    mask = np.asarray(row(window, START, jnp.array([FIRST + committed]), FIRST, 4, LENGTH))[0][:, FIRST:]
    for position, seen in zip(range(4, 16), mask, strict=True):
        expected = [j <= position and (j < committed or j // 4 == position // 4) for j in range(16)]
        assert seen.tolist() == expected


def test_padding_sees_itself():
    padding = jnp.array([[0, 1]], jnp.int32)
    assert np.asarray(causal(padding, START, LENGTH))[0, 0].tolist() == [True] + [False] * (LENGTH - 1)
