"""Stage "heads", second part (ours): train on what a draft is worth, the overlap of its q with the verifier's p.

Smooth L1 asks a head for the middle of all that may follow, but a draft is kept with probability sum_v min(p, q). The
heads that the first part trained go on from there on 1 - sum_v min(p, q), the total variation distance. p and q are
those of the rows of a batch, without guidance: that costs half as many rows as the guided distributions, and in a
comparison it raised the guided overlap as much.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssd_jax.sampling import Sampler, guide, log_probabilities
from ssd_jax.training.bands import Setup, mean_over_bands
from ssd_jax.training.heads import (
    PromptedSource,
    Rows,
    head_matrices,
    measured,
    modules_of,
    named,
    placed_heads,
    sources_of,
)
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import shared_mass

Law = Callable[[jax.Array], jax.Array]
"""Logits [G, P, V] -> probabilities [B, P, V]; G = 2B with guidance (conditional rows first), else B."""


def per_offset_overlap(setup: Setup, law: Law) -> Callable:
    """Returns (heads' params, backbone, ids, mask, codes) -> mean sum_v min(p, q) of every offset, [O].

    ids, mask: [G, S], codes int32 [B, R*C]. p is the verifier's law of the target, q the head's; both teacher-forced.
    """
    model, heads = modules_of(setup)

    def values(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        def distribution(states: jax.Array) -> jax.Array:
            # For sampling, a sharded model gathers its logits on every device; here they stay where they are made.
            with nn.logical_axis_rules(()):
                return law(model.apply(frozen, states, method="logits"))

        def overlaps(hidden, embeddings, columns, states, where) -> jax.Array:
            p = distribution(states)
            drafts = heads.apply(params, hidden, embeddings, columns)
            shared = [shared_mass(p[:, places], distribution(out)) for places, out in zip(where, drafts, strict=True)]
            return jnp.stack(shared)

        codes = jnp.tile(codes, (ids.shape[0] // codes.shape[0], 1))
        return mean_over_bands(
            overlaps, setup, setup.model.visual_size, *sources_of(setup, model, frozen, ids, mask, codes)
        )

    return values


def overlap_task(
    setup: Setup, backbone: Any, config: Any, seed: int, source: PromptedSource, start: Any, mesh: Mesh | None = None
) -> Task:
    """The second part of the heads' training; `start` are the heads' parameters after the first."""
    values = per_offset_overlap(setup, jax.nn.softmax)
    heldout = source.heldout(config.eval_images)

    def loss(params: Any, frozen: Any, batch: Rows, key: jax.Array):
        del key
        each = values(params, frozen, *batch)
        return 1.0 - each.mean(), named("overlap", each, setup.heads)

    measure = measured(values, backbone, source.given, config.batch // setup.accumulation, mesh)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": 1.0 - float(measure(params, heldout).mean())}

    return Task(
        "overlap", None, loss, lambda step: source.batch(seed, step), evaluate, matrices=head_matrices,
        frozen=backbone, start=start, accumulation=setup.accumulation, mesh=mesh, placed=placed_heads(setup, mesh),
    )  # fmt: skip


def digest(params: Any) -> str:
    """Identifies parameters by every bit of them."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def guided_law(sampler: Sampler) -> Law:
    """What pictures are drawn with: guidance, temperature and filters of a sampler."""
    return lambda logits: jnp.exp(log_probabilities(guide(logits, sampler.cfg_scale, True), sampler))
