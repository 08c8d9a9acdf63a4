"""Binds a model to a decoder: one jitted program from prompt ids to tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from ssd_jax import cache as kv
from ssd_jax.cache import KVCache
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.bound import BoundVerifier
from ssd_jax.decode.presets import require_heads
from ssd_jax.decode.state import Decoded
from ssd_jax.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.masks import causal
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.layers import whole
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sampling import Sampler
from ssd_jax.sharding import sharding_of


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
    verifier = BoundVerifier(model, params, grid, prompt_mask, keys, sampler, guided, heads, heads_params, limit)
    out = decoder.run(verifier, cache, hidden, grid)
    return out.replace(tokens=whole(out.tokens), passes=whole(out.passes), trace=whole(out.trace))
