"""Drafters that copy tokens: which of the verifier's earlier tokens they copy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.decode.drafting import Seen, draft
from ssd_jax.decode.verifier import Verifier
from ssd_jax.sequence.layout import Grid

GRID = Grid(4, 4)


@pytest.mark.parametrize(
    ("drafter", "last", "sources"),
    [
        # The column upwards to the first token that has been seen; in row 0 the last one.
        ("above", 5, [2, 3, 4, 5, 2, 3, 4, 5, 2, 3]),
        ("above", 1, [1, 1, 0, 1, 1, 1, 0, 1]),
        # The row to the left; in later rows column 0, upwards.
        ("left", 5, [5, 5, 4, 4, 4, 4, 4, 4, 4, 4]),
        ("left", 0, [0, 0, 0, 0]),
    ],
)
def test_where_a_copied_draft_comes_from(drafter, last, sources):
    """Token i of the grid is i, so a copy tells its source; two images at different places."""
    tokens = jnp.broadcast_to(jnp.arange(GRID.size, dtype=jnp.int32), (2, GRID.size))
    seen = Seen(tokens, jnp.array([last, 11]), None, jnp.array([1, 1]))
    codes, log_q = draft(drafter, Verifier(), GRID, GRID.size, seen, len(sources))
    assert codes[0].tolist() == sources
    assert codes[1, :4].tolist() == ([8, 9, 10, 11] if drafter == "above" else [8] * 4)
    np.testing.assert_array_equal(np.exp(log_q), np.eye(GRID.size)[codes])  # it is certain of them
