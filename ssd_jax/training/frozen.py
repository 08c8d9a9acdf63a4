"""What draft heads learn from: the states of a frozen backbone, in one teacher-forced forward over whole pictures."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax import cache as kv
from ssd_jax.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.masks import causal
from ssd_jax.models.transformer import Transformer, image_hidden, image_sequence, layout_of, predicting


def frozen_hidden(
    model: Transformer, params: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array, grid: Grid, window: int = 0
) -> jax.Array:
    """As `image_hidden`, the sequence in windows over a cache: scores of W x T instead of T x T positions at a time.

    Args:
        model, params: the backbone.
        ids, mask: int32 and bool [B, S], padded on the left.
        codes: int32 [B, R*C].
        grid: R and C.
        window: W, tokens at once, or 0 for all.
    Returns:
        h_i of every token before the final norm, [B, R*C, D].
    """
    layout = layout_of(model.config, grid)
    length = ids.shape[1] + layout.length - 1
    if not window or length <= window:
        return image_hidden(model, params, ids, mask, codes, grid)
    c, count = model.config, -(-length // window)
    x = image_sequence(model, params, ids, codes, layout)
    B, _, D = x.shape
    x = jnp.pad(x, ((0, 0), (0, count * window - length), (0, 0))).reshape(B, count, window, D)
    slots = jnp.arange(count * window, dtype=jnp.int32).reshape(count, 1, window)
    starts = prompt_starts(mask)

    def forward(cache: kv.KVCache, part: tuple[jax.Array, jax.Array]) -> tuple[kv.KVCache, jax.Array]:
        x, slots = part[0], jnp.broadcast_to(part[1], (B, window))
        seen = causal(slots, starts, cache.length)
        hidden, cache = model.apply(params, x, rotary_positions(slots, starts), seen, slots, cache, method="hidden")
        return cache, hidden

    dtype = jax.tree.leaves(params)[0].dtype
    cache = kv.empty(c.layers, kv.shape_of(B, c.kv_heads, count * window, c.head_dim), dtype)
    cache = jax.tree.map(lambda layer: nn.with_logical_constraint(layer, kv.AXES[cache.attention]), cache)
    _, hidden = jax.lax.scan(forward, cache, (x.swapaxes(0, 1), slots))
    return predicting(hidden.swapaxes(0, 1).reshape(B, count * window, D), ids.shape[1], layout)
