"""Positions of image tokens and their attention masks, against matrices written by hand."""

import jax.numpy as jnp
import numpy as np

from ssd_jax.sequence.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.sequence.masks import causal


def matrix(*rows: str) -> np.ndarray:
    return np.array([[mark == "x" for mark in row.split()] for row in rows])


def test_causal_mask_of_a_window():
    mask = causal(jnp.array([[3, 4, 5]]), jnp.array([1]), 7)
    np.testing.assert_array_equal(
        mask[0],
        matrix(
            ". x x x . . .",
            ". x x x x . .",
            ". x x x x x .",
        ),
    )


def test_padding_sees_itself_and_nobody_else_sees_it():
    mask = causal(jnp.array([[0, 1, 2, 3]]), jnp.array([2]), 4)
    np.testing.assert_array_equal(
        mask[0],
        matrix(
            "x . . .",
            ". x . .",
            ". . x .",
            ". . x x",
        ),
    )


def test_rows_of_a_batch_have_their_own_start_and_place():
    mask = causal(jnp.array([[2], [3]]), jnp.array([0, 2]), 4)
    np.testing.assert_array_equal(mask[0], matrix("x x x ."))
    np.testing.assert_array_equal(mask[1], matrix(". . x x"))


def test_targets_of_offsets_in_a_grid_of_3_by_4():
    # positions    0  1  2  3
    #              4  5  6  7
    #              8  9 10 11
    where, valid = Grid(3, 4).targets(((0, 1), (0, 3), (1, 0), (2, 1)))
    off = -1
    expected = np.array(
        [
            [1, 2, 3, off, 5, 6, 7, off, 9, 10, 11, off],  # right by one: never into the next row
            [3, off, off, off, 7, off, off, off, 11, off, off, off],
            [4, 5, 6, 7, 8, 9, 10, 11, off, off, off, off],  # down by one
            [9, 10, 11, off, off, off, off, off, off, off, off, off],
        ]
    )
    np.testing.assert_array_equal(np.where(valid, where, off), expected)
    assert where.min() >= 0 and where.max() < 12  # places without a target can still be gathered from


def test_prompts_start_behind_their_padding():
    mask = jnp.array([[False, False, True], [True, True, True]])
    np.testing.assert_array_equal(prompt_starts(mask), [2, 0])


def test_rotary_positions_count_from_the_first_real_token():
    slots = jnp.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(
        rotary_positions(slots, jnp.array([2, 0])),
        [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]],
    )
