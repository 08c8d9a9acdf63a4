"""Programs that compute logits and likelihoods of given images' codes, a batch at a time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import replicated
from ssd_jax.models.teacher_forcing import forced
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.distribution import guide
from ssd_jax.sequence.layout import Grid

Given = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt ids int32 and prompt mask bool [B, S], padded on the left, and codes int32 [B, R*C]."""


def checked(
    config: ModelConfig, grid: Grid, prompt_ids: np.ndarray, codes: np.ndarray, prompt_mask: np.ndarray | None = None
) -> Given:
    """Checks ids, mask (None is all True) and codes, and converts them for the programs.

    Raises:
        UserError: ids or codes that are empty or not two-dimensional; codes that do not fill the grid or are not as
            many as the prompts; a mask of another shape than the ids; ids or codes that the model does not have.
    """
    prompt_ids, codes = np.asarray(prompt_ids, np.int32), np.asarray(codes, np.int32)
    for name, shape, ids in (("prompt_ids", "[B, S]", prompt_ids), ("codes", "[B, R*C]", codes)):
        if ids.ndim != 2 or not ids.size:
            raise UserError(f"{name} must be {shape}, none of them 0, not {list(ids.shape)}.")
    if codes.shape[1] != grid.size:
        raise UserError(f"A grid of {grid.rows} x {grid.cols} has {grid.size} codes, not {codes.shape[1]}.")
    if len(prompt_ids) != len(codes):
        raise UserError(f"There are {len(prompt_ids)} rows of prompt_ids for {len(codes)} rows of codes.")
    for name, ids, size in (("prompt_ids", prompt_ids, config.vocab_size), ("codes", codes, config.visual_size)):
        if ids.min() < 0 or ids.max() >= size:
            raise UserError(f"{name} must lie in 0..{size - 1}, but go from {ids.min()} to {ids.max()}.")
    mask = np.ones(prompt_ids.shape, bool) if prompt_mask is None else np.asarray(prompt_mask, bool)
    if mask.shape != prompt_ids.shape:
        raise UserError(f"prompt_mask must be {list(prompt_ids.shape)}, as prompt_ids, not {list(mask.shape)}.")
    return prompt_ids, mask, codes


@partial(jax.jit, static_argnames=("config", "grid", "window", "attention"))
def visual_logits(
    params: Any,
    ids: jax.Array,
    mask: jax.Array,
    codes: jax.Array,
    *,
    config: ModelConfig,
    grid: Grid,
    window: int,
    attention: str,
) -> jax.Array:
    """The logits that predict every code, float32 [B, R*C, V], all kept at once; arguments as for `forced`."""
    model = Transformer(config)
    hidden = forced(model, params, ids, mask, codes, grid, window, attention)
    return model.apply(params, hidden, method="logits")


@partial(jax.jit, static_argnames=("config", "grid", "window", "attention", "guided"))
def visual_nll(
    params: Any,
    ids: jax.Array,
    mask: jax.Array,
    codes: jax.Array,
    cfg_scale: jax.Array,
    *,
    config: ModelConfig,
    grid: Grid,
    window: int,
    attention: str,
    guided: bool,
) -> jax.Array:
    """-log p of every code under the guided distribution, float32 [B, R*C]; only one window's logits are kept at once.

    Arguments as for `forced`; if `guided`, they are a CFG batch of 2B rows, conditional first, codes repeated.
    """
    model = Transformer(config)

    def read(hidden: jax.Array, codes: jax.Array) -> jax.Array:
        logits = guide(model.apply(params, hidden, method="logits"), cfg_scale, guided)
        codes = replicated(codes)[: logits.shape[0], :, None]
        return -jnp.take_along_axis(jax.nn.log_softmax(replicated(logits)), codes, axis=-1)[..., 0]

    return replicated(forced(model, params, ids, mask, codes, grid, window, attention, read))
