"""Drafts for the `match` coupling from the verifier's outputs in earlier passes.

A draft after the first wrong one was computed under tokens that have just changed. As drafts flip back and forth, the
verifier may have seen the current tokens a few passes ago, and its output of that pass is the better draft. Only drafts
change, so the images are those of `ar`.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from ssd_jax.decode.state import gather
from ssd_jax.sequence.layout import Grid

SWEEPS = 2
"""Number of parallel recalls: this many drafts after the committed tokens equal those of recalling left to right."""


@flax.struct.dataclass
class History:
    """The last H passes of every image, pass t in line t mod H.

    Attributes:
        inputs: the tokens before the pass.
        outputs: the verifier's tokens in its window, -1 elsewhere.
    """

    inputs: Int32[Array, "B H tokens"]
    outputs: Int32[Array, "B H tokens"]


def empty(images: int, passes: int, grid: Grid) -> History:
    """A history without passes, B = images and H = passes."""
    nothing = jnp.full((images, passes, grid.size), -1, jnp.int32)
    return History(nothing, nothing)


def remember(
    history: History,
    pass_index: Int32[Array, " B"],
    before: Int32[Array, "B tokens"],
    after: Int32[Array, "B tokens"],
    positions: Int32[Array, "B W"],
) -> History:
    """Replaces the oldest pass by a new one.

    Args:
        history: the earlier passes.
        pass_index: index of the new pass for each image.
        before, after: the tokens before the pass, and with its outputs in its window.
        positions: the window, consecutive.
    """
    index = jnp.arange(before.shape[1], dtype=jnp.int32)[None]
    window = (index >= positions[:, :1]) & (index <= positions[:, -1:])
    line = pass_index % history.inputs.shape[1]
    # vmap over images, so that a sharded batch needs no communication.
    put = jax.vmap(lambda lines, line, new: lines.at[line].set(new))
    return History(put(history.inputs, line, before), put(history.outputs, line, jnp.where(window, after, -1)))


def recall(
    history: History,
    pass_index: Int32[Array, " B"],
    tokens: Int32[Array, "B tokens"],
    positions: Int32[Array, "B W"],
    committed: Int32[Array, " B"],
    grid: Grid,
) -> Int32[Array, "B W"]:
    """The window with its drafts replaced by the verifier's outputs for the same neighbouring tokens.

    Of the passes that had the position in their window, take those with the current token just before it in raster
    order; of several (or none), those with the current token above; then two before; then the newest pass. This order
    was chosen on sixteen of the bundled model's prompts. A draft depends on those before it, which are recalled at the
    same time: hence the sweeps.

    Args:
        history: this pass included.
        pass_index: index of this pass for each image.
        tokens: the entire grid, with this pass's outputs in its window.
        positions: the window, consecutive.
        committed: how many of the window's tokens are final and not replaced.
        grid: R and C.
    """
    H, W, C = history.inputs.shape[1], positions.shape[1], grid.cols
    reach = max(C, 2)
    # The window and the positions before it, as far as a draft looks back.
    around = positions[:, :1] - reach + jnp.arange(reach + W, dtype=jnp.int32)[None]
    index = jnp.clip(around, 0, grid.size - 1)[:, None]
    seen = jnp.where(around[:, None] >= 0, jnp.take_along_axis(history.inputs, index, axis=2), -1)  # off the grid: none
    said = jnp.take_along_axis(history.outputs, index[..., reach:], axis=2)
    age = (pass_index[:, None] - jnp.arange(H, dtype=jnp.int32)[None]) % H
    draft = jnp.arange(W, dtype=jnp.int32)[None] >= committed[:, None]
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
