"""Binds a model to a decoder: one jitted program from prompt ids to tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax import cache as kv
from ssd_jax.cache import KVCache
from ssd_jax.decode.ar import AR, decode_ar
from ssd_jax.decode.state import Decoded, Functions
from ssd_jax.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.masks import causal
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling import Sampler, guide, gumbel_noise, log_probabilities

LOOPS = {AR: decode_ar}
"""Which loop runs a decoder, by the decoder's type."""


def bind(
    model: Transformer,
    params: Any,
    prompt_mask: jax.Array,
    keys: jax.Array,
    sampler: Sampler,
    guided: bool,
) -> Functions:
    """The model as functions over windows; prompt_mask is bool [G, S], keys are the images' [B]."""
    starts = prompt_starts(prompt_mask)
    S = prompt_mask.shape[1]

    def verify(cache: KVCache, codes: jax.Array, positions: jax.Array) -> tuple[jax.Array, KVCache]:
        if guided:  # both rows of an image see the same window
            codes, positions = jnp.tile(codes, (2, 1)), jnp.tile(positions, (2, 1))
        slots = positions + S
        x = model.apply(params, codes, method="embed_codes")
        with jax.named_scope("verify"):
            return model.apply(
                params,
                x,
                rotary_positions(slots, starts),
                causal(slots, starts, cache.length),
                slots,
                cache,
                method="hidden",
            )

    def log_p(hidden: jax.Array) -> jax.Array:
        logits = model.apply(params, hidden, method="logits")
        with jax.named_scope("sampling"):
            return log_probabilities(guide(logits, sampler.cfg_scale, guided), sampler)

    def noise(positions: jax.Array) -> jax.Array:
        return gumbel_noise(keys, positions, model.config.visual_size)

    return Functions(verify, log_p, noise)


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


def make_cache(config: ModelConfig, decoder: Any, grid: Grid, rows: int, prompt: int, dtype: jnp.dtype) -> KVCache:
    """An empty cache for `rows` batch rows (guidance included) and prompts of `prompt` slots."""
    length = prompt + grid.size + decoder.slack
    return kv.empty(config.layers, rows, config.kv_heads, length, config.head_dim, dtype)


@partial(jax.jit, static_argnames=("config", "decoder", "grid", "guided"), donate_argnames=("cache",))
def decode(
    params: Any,
    cache: KVCache,
    prompt_ids: jax.Array,
    prompt_mask: jax.Array,
    keys: jax.Array,
    sampler: Sampler,
    *,
    config: ModelConfig,
    decoder: Any,
    grid: Grid,
    guided: bool,
) -> Decoded:
    """Prefill and the decoder's loop, in one program.

    Args:
        params: the backbone's.
        cache: from `make_cache`; donated, and handed back in the result.
        prompt_ids, prompt_mask: int32 and bool [G, S], padded on the left; with guidance the conditional rows come
            first, then as many unconditional ones.
        keys: the images' keys, [B].
        sampler: the knobs of p.
        config, decoder, grid, guided: static; `guided` says whether there are unconditional rows.
    """
    model = Transformer(config)
    hidden, cache = prefill(model, params, cache, prompt_ids, prompt_mask)
    functions = bind(model, params, prompt_mask, keys, sampler, guided)
    return LOOPS[type(decoder)](functions, cache, hidden, grid)
