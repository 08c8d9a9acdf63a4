"""Stage "heads", second part (ours): train on what a draft is worth, the overlap of its q with the verifier's p.

Smooth L1 asks a head for the middle of all that may follow, but a draft is kept with probability sum_v min(p, q). The
heads that the first part trained go on from there on 1 - sum_v min(p, q), the total variation distance. p and q are
those of the rows of a batch, without guidance: that costs half as many rows as the guided distributions, and in a
comparison it raised the guided overlap as much.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.products import PRODUCTS, Product
from ssd_jax.models.transformer import Transformer
from ssd_jax.prompts import pad_left
from ssd_jax.sampling import Sampler, guide, log_probabilities
from ssd_jax.training.backbone import CaptionedCodes
from ssd_jax.training.heads import head_matrices, make_heads, mean_per_offset, named, sources_of, whole_batches
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import shared_mass, valid_mean

Law = Callable[[jax.Array], jax.Array]
"""Logits [G, P, V] -> probabilities [B, P, V]; G = 2B with guidance (conditional rows first), else B."""


def per_offset_overlap(
    model_config: ModelConfig, heads_config: HeadsConfig, law: Law, product: Product = jnp.einsum
) -> Callable:
    """Returns (heads' params, backbone, ids, mask, codes) -> mean sum_v min(p, q) of every offset, [O].

    ids, mask: [G, S], codes int32 [B, R*C]. p is the verifier's law of the target, q the head's; both teacher-forced.
    """
    model, heads = Transformer(model_config, product), make_heads(model_config, heads_config, product)
    where, valid = Grid(model_config.rows, model_config.cols).targets(heads_config.offsets)

    def values(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        def distribution(states: jax.Array) -> jax.Array:
            return law(model.apply(frozen, states, method="logits"))

        codes = jnp.tile(codes, (ids.shape[0] // codes.shape[0], 1))
        hidden, embeddings, columns = sources_of(model, frozen, ids, mask, codes)
        p = distribution(hidden)
        drafts = heads.apply(params, hidden, embeddings, columns)
        shared = [shared_mass(p[:, places], distribution(out)) for places, out in zip(where, drafts, strict=True)]
        return valid_mean(jnp.stack(shared), valid[:, None])

    return values


def overlap_task(
    model_config: ModelConfig,
    heads_config: HeadsConfig,
    backbone: Any,
    config: Any,
    seed: int,
    source: CaptionedCodes,
    start: Any,
) -> Task:
    """The second part of the heads' training; `start` are the heads' parameters after the first."""
    values = per_offset_overlap(model_config, heads_config, jax.nn.softmax, PRODUCTS[config.matmul])
    heldout = source.heldout(config.eval_images)

    def loss(params: Any, batch: tuple, key: jax.Array):
        del key
        each = values(params, backbone, *batch)
        return 1.0 - each.mean(), named("overlap", each, heads_config)

    jitted = jax.jit(values)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": 1.0 - float(mean_per_offset(jitted, params, backbone, source, heldout, config.batch).mean())}

    def init(key: jax.Array) -> Any:
        del key
        return jax.tree.map(jnp.copy, start)  # a step takes its state's buffers; `start` is still wanted

    return Task("overlap", init, loss, lambda step: source.batch(seed, step), evaluate, matrices=head_matrices)


def digest(params: Any) -> str:
    """Identifies parameters by every bit of them."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def guided_law(sampler: Sampler) -> Law:
    """What pictures are drawn with: guidance, temperature and filters of a sampler."""
    return lambda logits: jnp.exp(log_probabilities(guide(logits, sampler.cfg_scale, True), sampler))


def guided_overlaps(
    jitted, params: Any, backbone: Any, source: CaptionedCodes, indices: np.ndarray, batch: int
) -> np.ndarray:
    """Mean overlap of every offset over whole batches of pictures and their unconditional rows, float64 [O].

    `jitted` is a `per_offset_overlap` under a `guided_law`.
    """
    empty_ids, empty_mask = pad_left([source.empty] * batch, source.pad_id, source.length)
    values = []
    for part in whole_batches(indices, batch):
        ids, mask, codes = source.given(part)
        both = np.concatenate([ids, empty_ids]), np.concatenate([mask, empty_mask])
        values.append(np.asarray(jitted(params, backbone, *both, codes), np.float64))
    return np.mean(values, axis=0)
