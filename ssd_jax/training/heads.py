"""Stage "heads", first part: train the draft heads on the frozen backbone's hidden states (arXiv 2606.20543)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import DraftHeads, init_heads
from ssd_jax.models.products import PRODUCTS, Product
from ssd_jax.models.transformer import Transformer, image_hidden
from ssd_jax.training.backbone import CaptionedCodes
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import head_loss


def make_heads(model: ModelConfig, heads: HeadsConfig, product: Product = jnp.einsum) -> DraftHeads:
    """The heads of a backbone."""
    return DraftHeads(heads, model.width, model.norm_eps, product)


def sources_of(
    model: Transformer, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What heads start from at every token of whole pictures: h and e [B, R*C, D], columns int32 [B, R*C]."""
    hidden = jax.lax.stop_gradient(image_hidden(model, frozen, ids, mask, codes))
    columns = jnp.arange(codes.shape[1], dtype=jnp.int32) % model.config.cols
    return hidden, model.apply(frozen, codes, method="embed_codes"), jnp.broadcast_to(columns, codes.shape)


def targets_of(hidden: jax.Array, grid: Grid, offsets: tuple) -> tuple[jax.Array, np.ndarray]:
    """Hidden states at every offset: [B, R*C, D] -> ([O, B, R*C, D], validity bool [O, 1, R*C])."""
    where, valid = grid.targets(offsets)
    return jnp.stack([hidden[:, places] for places in where]), valid[:, None]


def per_offset_loss(model_config: ModelConfig, heads_config: HeadsConfig, product: Product = jnp.einsum) -> Callable:
    """Returns (heads' params, backbone, prompt ids, prompt mask, codes) -> Smooth L1 of every offset, [O]."""
    model, heads = Transformer(model_config, product), make_heads(model_config, heads_config, product)
    grid = Grid(model_config.rows, model_config.cols)

    def values(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        hidden, embeddings, columns = sources_of(model, frozen, ids, mask, codes)
        target, valid = targets_of(hidden, grid, heads_config.offsets)
        return head_loss(heads.apply(params, hidden, embeddings, columns), target, valid)

    return values


def heads_task(
    model_config: ModelConfig,
    heads_config: HeadsConfig,
    backbone: Any,
    config: Any,
    seed: int,
    source: CaptionedCodes,
) -> Task:
    """The heads' part of the loop; `backbone` are the frozen parameters."""
    values = per_offset_loss(model_config, heads_config, PRODUCTS[config.matmul])
    heldout = source.heldout(config.eval_images)

    def loss(params: Any, batch: tuple, key: jax.Array):
        del key
        each = values(params, backbone, *batch)
        return each.mean(), named("smooth_l1", each, heads_config)

    jitted = jax.jit(values)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(mean_per_offset(jitted, params, backbone, source, heldout, config.batch).mean())}

    def init(key: jax.Array) -> Any:
        return init_heads(make_heads(model_config, heads_config), key)

    return Task("heads", init, loss, lambda step: source.batch(seed, step), evaluate, matrices=head_matrices)


def head_matrices(params: Any) -> Any:
    """What Muon trains: the stacked matrices, one per offset."""
    return jax.tree.map(lambda p: MuonDimensionNumbers(p.ndim - 2, p.ndim - 1) if p.ndim > 2 else None, params)


def offset_name(offset: tuple[int, int]) -> str:
    """ "right+2", "down+1"."""
    down, right = offset
    return f"down+{down}" if down else f"right+{right}"


def named(what: str, each: jax.Array, config: HeadsConfig) -> dict[str, jax.Array]:
    """Metrics of a step from one value per offset, [O]: {"<what>_right+1": value, ...}."""
    return {f"{what}_{offset_name(offset)}": value for offset, value in zip(config.offsets, each, strict=True)}


def mean_per_offset(
    jitted, params: Any, backbone: Any, source: CaptionedCodes, indices: np.ndarray, batch: int
) -> np.ndarray:
    """Mean of jitted(params, backbone, ids, mask, codes) -> [O] over whole batches of pictures, float64 [O]."""
    parts = whole_batches(indices, batch)
    values = [np.asarray(jitted(params, backbone, *source.given(part)), np.float64) for part in parts]
    return np.mean(values, axis=0)


def whole_batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    """Batches of one size; a rest is left out, fewer pictures than a batch are repeated."""
    parts = [indices[start : start + batch] for start in range(0, len(indices) - batch + 1, batch)]
    return parts or [np.resize(indices, batch)]
