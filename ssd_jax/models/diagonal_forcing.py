"""Teacher forcing along anti-diagonals: what `flash` would draw each code of given images from, of any size."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from ssd_jax.models.forked import Forked
from ssd_jax.models.teacher_forcing import image_sequence
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sequence.cache import CacheSpec, KVCache
from ssd_jax.sequence.diagonals import diagonals
from ssd_jax.sequence.layout import Grid, Layout, prompt_starts


def neighbour_states(
    forked: Forked,
    params: Any,
    ids: Int32[Array, "B S"],
    mask: Bool[Array, "B S"],
    codes: Int32[Array, "B {grid.size}"],
    grid: Grid,
    window: int = 0,
) -> tuple[Float32[Array, "B {grid.size} D"], Float32[Array, "B {grid.size} D"]]:
    """The states that predict each code: the backbone's at its left neighbour, for position 0 at the prompt's end, and
    the branch's at its upper one. Those of codes without such a neighbour mean nothing.

    Args:
        forked, params: the models and their parameters.
        ids, mask: the prompts, left-padded.
        codes: the images.
        grid: R and C.
        window: W, the most tokens per forward pass of the backbone, but a diagonal at least: its scores are W x T
            then. 0 is all, T x T. The branch takes an image at once. Through several windows no gradient should be
            taken: it would keep a cache for each.
    """
    layout, S = layout_of(forked.config, grid), ids.shape[1]
    x = image_sequence(Transformer(forked.config, forked.products), params["backbone"], ids, codes, layout)
    starts = prompt_starts(mask)
    fed = np.arange(grid.size - 1, dtype=np.int32)  # the last token predicts nothing, and nobody sees row ends
    image = (S + layout.places(fed)).astype(np.int32)
    if window:
        right, before = in_windows(forked, params, x, starts, S, layout, window)
    else:
        slots = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        right, before, _ = forked.right(params, x, slots, starts, S, layout)
        right, before = (
            jnp.concatenate([states[:, S - 1 : S], states[:, image]], axis=1) for states in (right, before)
        )
    slots = jnp.broadcast_to(image, (x.shape[0], len(image)))
    below, _ = forked.below(params, before[:, 1:], slots, starts, S, layout)
    return right, jnp.pad(below[:, : grid.size - grid.cols], ((0, 0), (grid.cols, 0), (0, 0)))


def in_windows(
    forked: Forked,
    params: Any,
    x: Float32[Array, "B T D"],
    starts: Int32[Array, " B"],
    first: int,
    layout: Layout,
    window: int,
) -> tuple[Float32[Array, "B {layout.grid.size} D"], Float32[Array, "B {layout.grid.size} D"]]:
    """States of the backbone, at its end and where the branch begins, of the prompt's last input and of all tokens but
    the last; as many diagonals at a time as `window` tokens hold, as when decoding.

    Args:
        forked, params, starts, first, layout: as for `Forked.hidden`.
        x: input embeddings of prompts and images.
        window: see `neighbour_states`.
    """
    c, grid, B = forked.config, layout.grid, x.shape[0]
    length = first + layout.length
    table = diagonals(grid).positions
    number = max(1, window // table.shape[1])
    table = np.pad(table, ((0, -len(table) % number), (0, 0)), constant_values=grid.size)
    position = table.reshape(-1, number * table.shape[1])
    inside = position < grid.size - 1
    slots = np.where(inside, first + layout.places(np.minimum(position, grid.size - 1)), length).astype(np.int32)

    def step(cache: KVCache, at: jax.Array) -> tuple[KVCache, tuple[jax.Array, jax.Array]]:
        inputs = x[:, jnp.minimum(at, x.shape[1] - 1)]  # those of padding are not written
        at = jnp.broadcast_to(at, inputs.shape[:2])
        right, before, written = forked.right(params, inputs, at, starts, first, layout, cache)
        assert written is not None
        return written, (right, before)

    dtype = params["backbone"]["params"]["embedding"].dtype
    spec = CacheSpec(c.layers, B, c.kv_heads, length, c.head_dim, dtype, "plain")
    cache = jax.tree.map(lambda layer: nn.with_logical_constraint(layer, spec.axes), spec.zeros())
    cache, prompt = step(cache, jnp.arange(first, dtype=jnp.int32))
    _, states = jax.lax.scan(step, cache, jnp.asarray(slots))
    order = np.argsort(position[inside])  # back to raster order
    place = np.flatnonzero(inside)[order]
    right, before = (
        jnp.concatenate([own[:, -1:], state.swapaxes(0, 1).reshape(B, position.size, -1)[:, place]], axis=1)
        for own, state in zip(prompt, states, strict=True)
    )
    return right, before
