"""What the verifier said in earlier passes, as a source of drafts for the `match` coupling.

A draft behind the first wrong one was computed under tokens that have just changed, and the verifier may have seen the
tokens that stand there now a few passes ago: drafts flip back and forth. Its word of that pass is the better draft.
Drafts alone are touched, so the pictures stay those of `ar`.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from ssd_jax.decode.state import gather
from ssd_jax.sequence.layout import Grid

SWEEPS = 2
"""Of parallel recalls: as many drafts behind the committed tokens are what recalling from left to right would give."""


@flax.struct.dataclass
class History:
    """The last H passes of every image, pass t in line t mod H.

    Attributes:
        inputs: the tokens as they stood before the pass.
        outputs: the verifier's tokens where its window was, -1 elsewhere.
    """

    inputs: Int32[Array, "B H tokens"]
    outputs: Int32[Array, "B H tokens"]


def empty(images: int, passes: int, grid: Grid) -> History:
    """A history of no pass yet, B = images and H = passes."""
    nothing = jnp.full((images, passes, grid.size), -1, jnp.int32)
    return History(nothing, nothing)


def remember(
    history: History,
    clock: Int32[Array, " B"],
    before: Int32[Array, "B tokens"],
    after: Int32[Array, "B tokens"],
    positions: Int32[Array, "B W"],
) -> History:
    """Puts a pass in the place of the oldest.

    Args:
        history: the passes before.
        clock: the number of the pass for each image.
        before, after: the tokens that the pass was given, and with what it said about its window.
        positions: the window, consecutive.
    """
    index = jnp.arange(before.shape[1], dtype=jnp.int32)
    window = (index >= positions[:, :1]) & (index <= positions[:, -1:])
    line = clock % history.inputs.shape[1]
    # Mapped over images, so that devices with images of their own need not talk.
    put = jax.vmap(lambda lines, line, new: lines.at[line].set(new))
    return History(put(history.inputs, line, before), put(history.outputs, line, jnp.where(window, after, -1)))


def recall(
    history: History,
    clock: Int32[Array, " B"],
    tokens: Int32[Array, "B tokens"],
    positions: Int32[Array, "B W"],
    committed: Int32[Array, " B"],
    grid: Grid,
) -> Int32[Array, "B W"]:
    """The window with its drafts replaced by what the verifier said when it last saw a position's surroundings.

    Of the passes that had the position in their window, the one is taken that was given the present token before it in
    raster order; among several (or none) such, the one above; then the one two before; then the newest pass decides.
    This order was chosen on sixteen of the bundled model's prompts. A draft depends on those before it, which are
    recalled at the same time: hence the sweeps.

    Args:
        history: this pass included.
        clock: the number of this pass for each image.
        tokens: of the whole grid, with this pass's outputs in its window.
        positions: the window, consecutive.
        committed: how many of the window's tokens are final and stay.
        grid: R and C.
    """
    H, W, C = history.inputs.shape[1], positions.shape[1], grid.cols
    reach = max(C, 2)
    # The window and what stands before it, as far as a draft looks back.
    around = positions[:, :1] - reach + jnp.arange(reach + W, dtype=jnp.int32)
    index = jnp.clip(around, 0, grid.size - 1)[:, None]
    seen = jnp.where(around[:, None] >= 0, jnp.take_along_axis(history.inputs, index, axis=2), -1)  # off the grid: none
    said = jnp.take_along_axis(history.outputs, index[..., reach:], axis=2)
    age = (clock[:, None] - jnp.arange(H, dtype=jnp.int32)) % H
    draft = jnp.arange(W, dtype=jnp.int32) >= committed[:, None]
    present = gather(tokens, around)
    before, window = present[:, :reach], present[:, reach:]
    for _ in range(SWEEPS):
        now = jnp.concatenate([before, window], axis=1)
        same = (seen == now[:, None]).astype(jnp.int32)
        left, above, second = (same[..., reach - k : reach - k + W] for k in (1, C, 2))
        score = (4 * left + 2 * above + second) * H - age[..., None]
        best = jnp.argmax(jnp.where(said >= 0, score, -H), axis=1)
        recalled = jnp.take_along_axis(said, best[:, None], axis=1)[:, 0]
        window = jnp.where(draft, recalled, window)
    return window
