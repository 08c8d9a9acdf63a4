"""Feeds alternatives to the drafts beside the window, so that a pass also predicts what follows a corrected token.

A pass that corrects the token at c leaves the next one with a draft at c + 1 that was computed under the wrong token,
and is usually wrong. So the runners-up of log p + g, the likely corrections, are extra inputs at the drafts' positions.
If the correction is among them, the verifier has already predicted the next token under it. Only drafts change, so the
images are those of `ar`, bit for bit.

Ours; the idea of feeding a tree beside the window is from SJD-PAC (arXiv 2603.18599).
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.decode.state import gather
from ssd_jax.decode.verifier import Beside, Verifier
from ssd_jax.sampling.choice import NONE, best_others, choose
from ssd_jax.sequence.layout import Grid

MOST = 64
"""The largest `reach`: 280 inputs, more than pay anywhere."""


class Alternatives(NamedTuple):
    """E = `count(reach)` alternatives to the drafts of a window.

    Attributes:
        codes: the alternative codes, or `NONE`.
        positions: positions of the drafts that they replace.
    """

    codes: Int32[Array, "B E"]
    positions: Int32[Array, "B E"]


@functools.cache
def pairs(reach: int) -> tuple[Int32[np.ndarray, " E"], Int32[np.ndarray, " E"]]:
    """The alternatives (j, k), from 0: the k-th runner-up of the j-th draft, for (j + 1)(k + 1) <= `reach`.

    Measured on an earlier bundled model, the j-th draft is the first wrong one about 1/j as often as the first, and its
    correction is the k-th runner-up about 1/k as often as the best; so the likeliest are those with a small product.
    """
    places, ranks = np.nonzero(np.outer(*[np.arange(1, reach + 1)] * 2) <= reach)
    return places.astype(np.int32), ranks.astype(np.int32)


def count(reach: int) -> int:
    """E, the number of inputs of a pass beside its window."""
    return len(pairs(reach)[0])


def no_alternatives(images: int, reach: int) -> Alternatives:
    """The alternatives before the first pass: none."""
    nothing = jnp.full((images, count(reach)), NONE, jnp.int32)
    return Alternatives(nothing, jnp.zeros_like(nothing))


def runners_up(
    reach: int,
    verifier: Verifier,
    log_p: Float32[Array, "B W V"],
    positions: Int32[Array, "B W"],
    right: Int32[Array, " B"],
    tokens: Int32[Array, "B tokens"],
) -> Alternatives:
    """The alternatives for the next pass: the best codes by log p + g of this pass, other than the draft.

    Args:
        reach: see `pairs`.
        verifier: for the noise g.
        log_p, positions: of this pass's window.
        right: how many of the window's first tokens are known to be right and need no alternatives.
        tokens: the grid, with the drafts of the next pass.
    """
    W = log_p.shape[1]
    places, ranks = pairs(reach)
    index = right[:, None] + jnp.arange(reach, dtype=jnp.int32)[None]
    drafted = positions[:, :1] + index
    scores = jnp.take_along_axis(log_p, jnp.minimum(index, W - 1)[..., None], axis=1) + verifier.noise(drafted)
    codes = jnp.where((index < W)[..., None], best_others(scores, gather(tokens, drafted), reach), NONE)
    return Alternatives(codes[:, places, ranks], drafted[:, places])


def beside(alternatives: Alternatives) -> Beside:
    """The alternatives as inputs of a pass; where there is none, code 0 is fed and ignored."""
    return Beside(jnp.maximum(alternatives.codes, 0), alternatives.positions)


def answer(
    verifier: Verifier,
    alternatives: Alternatives,
    hidden: Float[Array, "G E D"],
    tokens: Int32[Array, "B tokens"],
    corrected: Int32[Array, " B"],
    grid: Grid,
) -> tuple[Int32[Array, " B"], Bool[Array, " B"]]:
    """The token after the correction, if the correction was among the alternatives.

    Args:
        verifier: for p and g.
        alternatives, hidden: the alternatives and their states.
        tokens: the grid, with this pass's tokens.
        corrected: the last final position.
        grid: R and C.
    Returns:
        the token at `corrected` + 1, and whether it is known: the correction was among the alternatives.
    """
    correction = gather(tokens, corrected[:, None])
    same = (alternatives.positions == corrected[:, None]) & (alternatives.codes == correction)
    which = jnp.argmax(same, axis=1).astype(jnp.int32)
    which = jnp.tile(which, hidden.shape[0] // which.size)  # guidance has two states per alternative
    state = jnp.take_along_axis(hidden, which[:, None, None], axis=1)
    following = corrected[:, None] + 1
    known = jnp.any(same, axis=1)
    if verifier.row_ends:
        known &= following[:, 0] % grid.cols != 0  # no row end was fed after the alternative
    return choose(verifier.log_p_at(state, following), verifier.noise(following))[:, 0], known
