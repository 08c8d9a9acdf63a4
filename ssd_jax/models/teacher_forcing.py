"""Teacher forcing: runs the backbone over given images, of any size.

An image of Emu3 with its prompt is a sequence of 8316 tokens. In one pass, the attention scores of one layer would take
18 GB with guidance; so the sequence goes through the backbone in windows over a cache, as in decoding.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Shaped

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sequence.cache import CacheSpec, KVCache
from ssd_jax.sequence.layout import Grid, Layout, prompt_starts, rotary_positions
from ssd_jax.sequence.masks import causal

LIMIT = 2**26
"""About the most elements of a window's largest array: a quarter of a gigabyte in float32; a layer has several."""

Read = Callable[[Float32[Array, "B W D"], Int32[Array, "B W"]], Shaped[Array, "_ W ..."]]
"""(hidden states, the codes that they predict) -> the values to keep."""


def window_of(config: ModelConfig, grid: Grid, rows: int, prompt: int) -> int:
    """The largest window for which neither a layer's scores nor the logits have more than `LIMIT` elements.

    Emu3 takes 126 tokens with guidance: two batch rows, 32 attention heads and 8316 slots are half a million scores for
    each. The bundled model takes its whole sequence, of up to 120 images with guidance. Sharding is not considered.

    Args:
        config: sizes.
        grid: R and C.
        rows: B, guidance included.
        prompt: S.
    """
    length = prompt + layout_of(config, grid).length - 1
    each = rows * max(config.heads * length, config.visual_size)
    return max(1, min(length, LIMIT // each))


def forced(
    model: Transformer,
    params: Any,
    ids: Int32[Array, "B S"],
    mask: Bool[Array, "B S"],
    codes: Int32[Array, "B {grid.size}"],
    grid: Grid,
    window: int = 0,
    attention: str = "plain",
    read: Read = lambda hidden, codes: hidden,
) -> Shaped[Array, "_ {grid.size} ..."]:
    """Computes the hidden states that predict given codes, a window at a time, so that scores are W x T, not T x T.

    Args:
        model, params: the backbone.
        ids, mask: the prompts, left-padded.
        codes: the images.
        grid: R and C.
        window: W, the most tokens per window, or 0 for all.
        attention: one of `models.attention.ATTENTIONS`. The cache has its axis order, and the embedding's dtype.
        read: what to keep; by default the states themselves, h_i before the final norm.
    Returns:
        the result of `read` for every code.
    """
    layout = layout_of(model.config, grid)
    length = ids.shape[1] + layout.length - 1
    count = -(-length // (window or length))
    if count == 1 and attention == "plain":
        return read(image_hidden(model, params, ids, mask, codes, grid), codes)
    c, window, rows = model.config, -(-length // count), ids.shape[0]
    spare = count * window - length
    x = jnp.pad(image_sequence(model, params, ids, codes, layout), ((0, 0), (0, spare), (0, 0)))
    predicted = jnp.pad(codes[:, layout.sequence()[0]], ((0, 0), (ids.shape[1] - 1, spare)))
    starts = prompt_starts(mask)

    def step(cache: KVCache, first: Int32[Array, ""]) -> tuple[KVCache, Shaped[Array, "_ W ..."]]:
        part, wanted = (jax.lax.dynamic_slice_in_dim(array, first, window, axis=1) for array in (x, predicted))
        slots = jnp.broadcast_to(first + jnp.arange(window, dtype=jnp.int32), (rows, window))
        seen = causal(slots, starts, cache.length)
        places = rotary_positions(slots, starts)
        hidden, cache = _apply(model, params, part, places, seen, slots, cache, method="hidden")
        return cache, read(hidden, wanted)

    dtype = params["params"]["embedding"].dtype
    spec = CacheSpec(c.layers, rows, c.kv_heads, count * window, c.head_dim, dtype, attention)
    cache = jax.tree.map(lambda layer: nn.with_logical_constraint(layer, spec.axes), spec.zeros())
    _, out = jax.lax.scan(step, cache, jnp.arange(0, count * window, window, dtype=jnp.int32))
    out = out.swapaxes(0, 1)
    return predicting(out.reshape(out.shape[0], count * window, *out.shape[3:]), ids.shape[1], layout)


def image_hidden(
    model: Transformer,
    params: Any,
    prompt_ids: Int32[Array, "B S"],
    prompt_mask: Bool[Array, "B S"],
    codes: Int32[Array, "B size"],
    grid: Grid | None = None,
) -> Float32[Array, "B size D"]:
    """Teacher-forced h_i of every image token, before the final norm, in one forward pass; its scores are T x T.

    For short sequences: the bundled model's, and the training of its backbone, whose gradients would otherwise have to
    keep the cache of every window.

    Prompts are left-padded; codes are those of `grid`, None being the model's own.
    """
    layout = layout_of(model.config, grid or Grid(model.config.rows, model.config.cols))
    x = image_sequence(model, params, prompt_ids, codes, layout)
    slots = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    starts = prompt_starts(prompt_mask)
    mask = causal(slots, starts, x.shape[1])
    hidden, _ = _apply(model, params, x, rotary_positions(slots, starts), mask, method="hidden")
    return predicting(hidden, prompt_ids.shape[1], layout)


def image_sequence(
    model: Transformer,
    params: Any,
    prompt_ids: Int32[Array, "B S"],
    codes: Int32[Array, "B {layout.grid.size}"],
    layout: Layout,
) -> Float32[Array, "B S+{layout.length}-1 D"]:
    """Input embeddings of prompts and images, row ends inserted.

    The last token is left out, as it predicts nothing.
    """
    positions, cols = np.arange(codes.shape[1] - 1, dtype=np.int32)[None], layout.grid.cols
    image = _apply(model, params, codes[:, :-1], positions, cols, method="embed_image")
    if layout.row_ends:
        token, row_end = layout.sequence()
        end = _apply(model, params, jnp.int32(model.config.row_end_id), method="embed")
        image = jnp.where(row_end[:-1, None], end, image[:, token[:-1]])
    return jnp.concatenate([_apply(model, params, prompt_ids, method="embed"), image], axis=1)


def predicting(
    hidden: Shaped[Array, "B T *kept"], prompt: int, layout: Layout
) -> Shaped[Array, "B {layout.grid.size} *kept"]:
    """Selects, from the states of a prompt of `prompt` slots and an image, those that predict the image's tokens."""
    hidden = hidden[:, prompt - 1 : prompt - 1 + layout.length]
    return hidden[:, layout.places(np.arange(layout.grid.size))] if layout.row_ends else hidden


def _apply(model: Transformer, params: Any, *arguments: Any, method: str) -> Any:
    """Calls a method of the model; flax does not type the result."""
    return model.apply(params, *arguments, method=method)
