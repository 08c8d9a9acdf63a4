"""Binds a model to a decoder: one jitted program from prompt ids to tokens."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.presets import require_heads
from ssd_jax.decode.state import Decoded
from ssd_jax.decode.verifier import Watch
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import replicated
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.transformer import layout_of
from ssd_jax.parallel.mesh import sharding_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.cache import CacheSpec, KVCache
from ssd_jax.sequence.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.sequence.masks import causal


def prefill(model: LoadedModel, cache: KVCache, prompts: PromptBatch) -> tuple[Float[Array, "G 1 D"], KVCache]:
    """Writes the prompts to the cache; returns the last hidden state, which predicts token 0."""
    starts = prompt_starts(jnp.asarray(prompts.mask))
    slots = jnp.broadcast_to(jnp.arange(prompts.ids.shape[1], dtype=jnp.int32), prompts.ids.shape)
    with jax.named_scope("prefill"):
        hidden, cache = model.apply(
            model.apply(prompts.ids, method="embed"),
            rotary_positions(slots, starts),
            causal(slots, starts, cache.length),
            slots,
            cache,
            method="hidden",
        )
    return hidden[:, -1:], cache


def cache_spec(
    config: ModelConfig,
    grid: Grid,
    rows: int,
    prompt: int,
    dtype: DTypeLike,
    attention: str = "plain",
    branch_layers: int = 0,
) -> CacheSpec:
    """The cache of `rows` batch rows (the CFG batch) and prompts of `prompt` slots, in the axis order of one of
    `models.attention.ATTENTIONS`, with the layers of a vertical branch after the backbone's if there are any.

    A window may reach past the end of the grid; positions there are padding and are not written.
    """
    length = prompt + layout_of(config, grid).length
    return CacheSpec(config.layers + branch_layers, rows, config.kv_heads, length, config.head_dim, dtype, attention)


def make_cache(spec: CacheSpec, mesh: Mesh | None = None) -> KVCache:
    """An empty cache, sharded over a mesh."""
    return spec.zeros(cache_sharding(spec, mesh))


def cache_sharding(spec: CacheSpec, mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of a layer of the cache on a mesh; None without one."""
    return None if mesh is None else sharding_of(spec.axes, spec.shape, mesh)


@partial(jax.jit, static_argnames=("decoder", "grid", "watch"), donate_argnames=("cache",))
def decode(
    model: LoadedModel,
    cache: KVCache,
    prompts: PromptBatch,
    draw: Draw,
    *,
    decoder: Decoder,
    grid: Grid,
    watch: Watch | None = None,
) -> Decoded:
    """Prefill and the decoder's loop, in one program; raises `UserError` if the decoder needs draft heads or
    a vertical branch that are missing.

    Args:
        model: the backbone, and what was trained beside it.
        cache: from `make_cache`, for that model; donated, and returned in the result.
        prompts: with or without guidance.
        draw: keys and sampling parameters.
        decoder, grid: static.
        watch: static; sees how far the decoder's loop is (see `Verifier`).
    """
    require_heads(decoder, *model.head_counts)
    hidden, cache = prefill(model, cache, prompts)
    out = decoder.run(BoundVerifier(model, prompts, draw, grid, watch), cache, hidden, grid)
    return dataclasses.replace(
        out, tokens=replicated(out.tokens), passes=replicated(out.passes), trace=replicated(out.trace)
    )
