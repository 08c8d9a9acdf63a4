"""Stage "heads": train the draft heads on the frozen backbone (arXiv 2606.20543)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import DraftHeads
from ssd_jax.models.transformer import Transformer, image_hidden
from ssd_jax.prompts import pad_left
from ssd_jax.sampling import Sampler, guide, log_probabilities
from ssd_jax.training.backbone import CaptionedCodes
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import head_loss


def targets_of(hidden: jax.Array, grid: Grid, offsets: tuple) -> tuple[jax.Array, np.ndarray]:
    """Hidden states at every offset: [B, R*C, D] -> ([O, B, R*C, D], validity bool [O, 1, R*C])."""
    where, valid = grid.targets(offsets)
    return jnp.stack([hidden[:, places] for places in where]), valid[:, None]


def per_offset_loss(model_config: ModelConfig, heads_config: HeadsConfig) -> Callable:
    """Returns (heads' params, backbone, prompt ids, prompt mask, codes) -> Smooth L1 of every offset, [O]."""
    model = Transformer(model_config)
    heads = DraftHeads(heads_config, model_config.width, model_config.norm_eps)
    grid = Grid(model_config.rows, model_config.cols)

    def values(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        hidden = jax.lax.stop_gradient(image_hidden(model, frozen, ids, mask, codes))
        embeddings = model.apply(frozen, codes, method="embed_codes")
        target, valid = targets_of(hidden, grid, heads_config.offsets)
        return head_loss(heads.apply(params, hidden, embeddings), target, valid)

    return values


def initial_heads(model_config: ModelConfig, heads_config: HeadsConfig, key: jax.Array) -> Any:
    """Parameters of untrained heads, which copy the hidden state of their source."""
    x = jnp.zeros((1, model_config.width))
    return nn.unbox(DraftHeads(heads_config, model_config.width, model_config.norm_eps).init(key, x, x))


def heads_task(
    model_config: ModelConfig,
    heads_config: HeadsConfig,
    backbone: Any,
    config: Any,
    seed: int,
    source: CaptionedCodes,
) -> Task:
    """The heads' part of the loop; `backbone` are the frozen parameters."""
    values = per_offset_loss(model_config, heads_config)
    heldout = source.heldout(config.eval_images)

    def loss(params: Any, batch: tuple, key: jax.Array):
        del key
        each = values(params, backbone, *batch)
        names = [offset_name(offset) for offset in heads_config.offsets]
        return each.mean(), {f"smooth_l1_{name}": value for name, value in zip(names, each, strict=True)}

    jitted = jax.jit(values)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(smooth_l1(jitted, params, backbone, source, heldout, config.batch).mean())}

    def init(key: jax.Array) -> Any:
        return initial_heads(model_config, heads_config, key)

    return Task("heads", init, loss, lambda step: source.batch(seed, step), evaluate, matrices=head_matrices)


def head_matrices(params: Any) -> Any:
    """What Muon trains: the stacked matrices, one per offset."""
    return jax.tree.map(lambda p: MuonDimensionNumbers(1, 2) if p.ndim == 3 else None, params)


def offset_name(offset: tuple[int, int]) -> str:
    """ "right+2", "down+1"."""
    down, right = offset
    return f"down+{down}" if down else f"right+{right}"


def smooth_l1(
    jitted, params: Any, backbone: Any, source: CaptionedCodes, indices: np.ndarray, batch: int
) -> np.ndarray:
    """Mean Smooth L1 of every offset over whole batches of pictures, float64 [O]."""
    parts = _whole_batches(indices, batch)
    values = [np.asarray(jitted(params, backbone, *source.given(part)), np.float64) for part in parts]
    return np.mean(values, axis=0)


def _whole_batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    """Batches of one size; a rest is left out, fewer pictures than a batch are repeated."""
    parts = [indices[start : start + batch] for start in range(0, len(indices) - batch + 1, batch)]
    return parts or [np.resize(indices, batch)]


def overlaps(
    model_config: ModelConfig,
    heads_config: HeadsConfig,
    params: Any,
    backbone: Any,
    source: CaptionedCodes,
    indices: np.ndarray,
    sampler: Sampler,
    batch: int,
) -> np.ndarray:
    """Mean overlap sum_v min(p, q) of every offset, float64 [O]: the chance that a draft from q is kept.

    p is the verifier's distribution at the target under `sampler` (guidance included), q the head's; both are
    teacher-forced.
    """
    model = Transformer(model_config)
    heads = DraftHeads(heads_config, model_config.width, model_config.norm_eps)
    grid = Grid(model_config.rows, model_config.cols)
    where, valid = grid.targets(heads_config.offsets)

    @jax.jit
    def overlap(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        codes = jnp.tile(codes, (2, 1))
        hidden = image_hidden(model, frozen, ids, mask, codes)
        embeddings = model.apply(frozen, codes, method="embed_codes")

        def distribution(states: jax.Array) -> jax.Array:
            logits = guide(model.apply(frozen, states, method="logits"), sampler.cfg_scale, True)
            return jnp.exp(log_probabilities(logits, sampler))

        p = distribution(hidden)
        out = []
        for index, (places, good) in enumerate(zip(where, valid, strict=True)):
            q = distribution(heads.apply(params, hidden, embeddings, which=(index,))[0])
            shared = jnp.minimum(p[:, places], q).sum(-1)
            out.append((shared * good).sum() / (good.sum() * shared.shape[0]))
        return jnp.stack(out)

    values = []
    for part in _whole_batches(indices, batch):
        ids, mask, codes = source.given(part)
        empty_ids, empty_mask = pad_left([source.empty] * batch, source.pad_id, source.length)
        both = np.concatenate([ids, empty_ids]), np.concatenate([mask, empty_mask])
        values.append(np.asarray(overlap(params, backbone, *both, codes), np.float64))
    return np.mean(values, axis=0)
