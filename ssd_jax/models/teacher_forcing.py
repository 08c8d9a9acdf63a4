"""Teacher forcing: what the backbone makes of pictures that are given, at any size.

A picture of Emu3 with its prompt is a sequence of 8316 tokens. All at once, the scores of one layer would take 18 GB
with guidance; so the sequence goes through the backbone in windows over a cache, as in decoding.
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
"""Numbers in the largest array of a window, about: a quarter of a gigabyte in float32, of which a layer has several."""

Read = Callable[[Float32[Array, "B W D"], Int32[Array, "B W"]], Shaped[Array, "_ W ..."]]
"""(states, the codes that they predict) -> what is kept of them."""


def window_of(config: ModelConfig, grid: Grid, rows: int, prompt: int) -> int:
    """Tokens at once, so many that neither a layer's scores nor the logits have more than `LIMIT` numbers.

    Emu3 takes 126 with guidance: two rows, 32 heads and 8316 slots are half a million scores for each. The bundled
    model takes its whole sequence, of up to 120 pictures with guidance. Parts of a mesh are not counted.

    Args:
        config: sizes.
        grid: R and C.
        rows: B, those of guidance included.
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
    """Reads the states that predict given codes, a window at a time; scores are W x T then, not T x T.

    Args:
        model, params: the backbone.
        ids, mask: the prompts, padded on the left.
        codes: the pictures.
        grid: R and C.
        window: W, at most so many tokens at once, or 0 for all.
        attention: one of `models.attention.ATTENTIONS`. The cache is laid out for it and has the embedding's dtype.
        read: what is kept; by default the states themselves, h_i before the final norm.
    Returns:
        what `read` gives of every code.
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
    """Teacher-forced h_i of every image token in one forward pass, before the final norm; its scores are T x T.

    For short sequences: the bundled model's, and the training of its backbone, whose gradients would have to keep the
    cache of every window.

    Prompts are padded on the left; codes are those of `grid`, None being the model's own.
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
    """Input embeddings of prompts and pictures, row ends put in.

    The last token is left out: it predicts nothing.
    """
    image = _apply(model, params, codes[:, :-1], method="embed_codes")
    if layout.row_ends:
        token, row_end = layout.sequence()
        end = _apply(model, params, jnp.int32(model.config.row_end_id), method="embed")
        image = jnp.where(row_end[:-1, None], end, image[:, token[:-1]])
    return jnp.concatenate([_apply(model, params, prompt_ids, method="embed"), image], axis=1)


def predicting(
    hidden: Shaped[Array, "B T *kept"], prompt: int, layout: Layout
) -> Shaped[Array, "B {layout.grid.size} *kept"]:
    """Of states behind `prompt` prompt slots and a picture, or what is kept of them, those that predict its tokens."""
    hidden = hidden[:, prompt - 1 : prompt - 1 + layout.length]
    return hidden[:, layout.places(np.arange(layout.grid.size))] if layout.row_ends else hidden


def _apply(model: Transformer, params: Any, *arguments: Any, method: str) -> Any:
    """What a method of the model gives; flax's own types do not know that."""
    return model.apply(params, *arguments, method=method)
