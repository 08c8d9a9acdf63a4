"""Binds a model to a decoder: one jitted program from prompt ids to tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from ssd_jax import cache as kv
from ssd_jax.cache import KVCache
from ssd_jax.decode.ar import AR, decode_ar
from ssd_jax.decode.mtp import MTP, decode_mtp
from ssd_jax.decode.presets import Decoder, require_heads
from ssd_jax.decode.raster import Raster, decode_raster
from ssd_jax.decode.rows import SSD, decode_rows
from ssd_jax.decode.state import Decoded, Functions, Offsets
from ssd_jax.decode.wave import Wave, decode_wave
from ssd_jax.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.masks import causal, row
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import DraftHeads
from ssd_jax.models.layers import whole
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sampling import Sampler, guide, gumbel_noise, log_probabilities, position_keys
from ssd_jax.sharding import sharding_of

LOOPS = {AR: decode_ar, Raster: decode_raster, MTP: decode_mtp, SSD: decode_rows, Wave: decode_wave}
"""Which loop runs a decoder, by the decoder's type."""


def bind(
    model: Transformer,
    params: Any,
    grid: Grid,
    prompt_mask: jax.Array,
    keys: jax.Array,
    sampler: Sampler,
    guided: bool,
    heads: HeadsConfig | None = None,
    heads_params: Any = None,
    limit: jax.Array | None = None,
) -> Functions:
    """The model as functions over windows of a grid; prompt_mask is bool [G, S], keys are the images' [B]."""
    starts = prompt_starts(prompt_mask)
    S = prompt_mask.shape[1]
    layout = layout_of(model.config, grid)

    def both(x: jax.Array) -> jax.Array:
        """[B, ...] -> [G, ...]: the guided rows of an image see the same window."""
        x = whole(x)
        return jnp.concatenate([x, x]) if guided else x

    def verify(
        cache: KVCache,
        codes: jax.Array,
        positions: jax.Array,
        committed: jax.Array | None = None,
        ends: int | None = None,
    ) -> tuple[jax.Array, KVCache]:
        x, positions = both(embed(codes)), both(positions)
        places, outputs = positions, None
        if layout.row_ends:
            places, outputs = layout.window(positions, ends)
            row_end = model.apply(params, model.config.row_end_id, method="embed")
            spare = (x.shape[0], places.shape[1] - x.shape[1], x.shape[2])
            x = jnp.concatenate([x, jnp.broadcast_to(row_end, spare)], axis=1)
        slots = places + S
        if committed is None:
            mask = causal(slots, starts, cache.length)
        else:
            mask = row(slots, starts, both(layout.places(committed)) + S, S, layout.pitch, cache.length)
        with jax.named_scope("verify"):
            hidden, cache = model.apply(params, x, rotary_positions(slots, starts), mask, slots, cache, method="hidden")
        if outputs is not None:
            hidden = jnp.take_along_axis(hidden, outputs[..., None], axis=1)
        return hidden, cache

    def log_p(hidden: jax.Array) -> jax.Array:
        logits = model.apply(params, hidden, method="logits")
        with jax.named_scope("sampling"):
            return log_probabilities(whole(guide(logits, sampler.cfg_scale, guided)), sampler)

    def position(positions: jax.Array) -> jax.Array:
        return position_keys(keys, positions)

    def noise(positions: jax.Array) -> jax.Array:
        return gumbel_noise(keys, positions, model.config.visual_size)

    def embed(codes: jax.Array) -> jax.Array:
        return model.apply(params, codes, method="embed_codes")

    if heads is None:
        return Functions(verify, log_p, noise, position, embed, limit=limit)

    def draft(
        hidden: jax.Array, codes: jax.Array, columns: jax.Array, offsets: Offsets, count: int | None = None
    ) -> jax.Array:
        which = tuple(heads.offsets.index(offset) for offset in offsets)
        with jax.named_scope("heads"):
            drafter = DraftHeads(heads, model.config.width, model.config.norm_eps)
            out = drafter.apply(heads_params, hidden, both(embed(codes)), both(columns), which)
            out = jnp.moveaxis(out, 0, 1)[:, :, :count]
        log_q = log_p(out.reshape(out.shape[0], -1, out.shape[-1]))
        return log_q.reshape(log_q.shape[0], len(offsets), -1, log_q.shape[-1])

    counts = heads.horizontal, heads.vertical, heads.context
    return Functions(verify, log_p, noise, position, embed, draft, *counts, limit)


def prefill(
    model: Transformer, params: Any, cache: KVCache, prompt_ids: jax.Array, prompt_mask: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Writes the prompts to the cache; returns the last hidden state [G, 1, D], which predicts token 0."""
    starts = prompt_starts(prompt_mask)
    slots = jnp.broadcast_to(jnp.arange(prompt_ids.shape[1], dtype=jnp.int32), prompt_ids.shape)
    with jax.named_scope("prefill"):
        hidden, cache = model.apply(
            params,
            model.apply(params, prompt_ids, method="embed"),
            rotary_positions(slots, starts),
            causal(slots, starts, cache.length),
            slots,
            cache,
            method="hidden",
        )
    return hidden[:, -1:], cache


def make_cache(
    config: ModelConfig,
    grid: Grid,
    rows: int,
    prompt: int,
    dtype: DTypeLike,
    mesh: Mesh | None = None,
    attention: str = "plain",
) -> KVCache:
    """An empty cache for `rows` batch rows (guidance included) and prompts of `prompt` slots, spread over a mesh, laid
    out for one of `models.attention.ATTENTIONS`.

    A window may reach past the end of the grid; what lies there is padding and is not written.
    """
    length = prompt + layout_of(config, grid).length
    shape = kv.shape_of(rows, config.kv_heads, length, config.head_dim, attention)
    sharding = None if mesh is None else sharding_of(kv.AXES[attention], shape, mesh)
    return kv.empty(config.layers, shape, dtype, sharding, attention)


@partial(jax.jit, static_argnames=("config", "decoder", "grid", "guided", "heads"), donate_argnames=("cache",))
def decode(
    params: Any,
    cache: KVCache,
    prompt_ids: jax.Array,
    prompt_mask: jax.Array,
    keys: jax.Array,
    sampler: Sampler,
    *,
    config: ModelConfig,
    decoder: Decoder,
    grid: Grid,
    guided: bool,
    heads: HeadsConfig | None = None,
    heads_params: Any = None,
    limit: jax.Array | None = None,
) -> Decoded:
    """Prefill and the decoder's loop, in one program; raises `UserError` if the decoder needs heads that are not there.

    Args:
        params: the backbone's.
        cache: from `make_cache`; donated, and handed back in the result.
        prompt_ids, prompt_mask: int32 and bool [G, S], padded on the left; with guidance the conditional rows come
            first, then as many unconditional ones.
        keys: the images' keys, [B].
        sampler: the knobs of p.
        config, decoder, grid, guided: static; `guided` says whether there are unconditional rows.
        heads, heads_params: the draft heads' config (static) and parameters; None without heads.
        limit: int32, passes after which it stops, the prefill included; tokens that are not final by then are drafts
            or 0. None: when the pictures are finished.
    """
    require_heads(decoder, *((heads.horizontal, heads.vertical) if heads else (0, 0)))
    model = Transformer(config)
    hidden, cache = prefill(model, params, cache, prompt_ids, prompt_mask)
    functions = bind(model, params, grid, prompt_mask, keys, sampler, guided, heads, heads_params, limit)
    out = LOOPS[type(decoder)](functions, cache, hidden, grid, decoder)
    return out.replace(tokens=whole(out.tokens), passes=whole(out.passes), trace=whole(out.trace))
