"""The stage "flash" in two phases: "branch" trains a vertical branch on a frozen backbone, "flash" both together.

Source: FlashAR, arXiv 2605.09430, and its released code: first the branch alone, which also learns the backbone's own
distributions; then everything, the backbone at a fraction of the rate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from ssd_jax.data.captioned_codes import CaptionedCodes
from ssd_jax.models.forked import Forked
from ssd_jax.models.teacher_forcing import image_hidden, image_sequence, predicting
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sequence.layout import Grid, prompt_starts
from ssd_jax.training.backbone import batches, block_matrices, mean_nll
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import token_nll
from ssd_jax.training.spec import BranchSpec


def forced(
    forked: Forked,
    params: Any,
    ids: Int32[Array, "B S"],
    mask: Bool[Array, "B S"],
    codes: Int32[Array, "B size"],
    grid: Grid,
) -> tuple[Float32[Array, "B size V"], Float32[Array, "B size V"]]:
    """Teacher-forced logits of every code, as `flash` draws it and from its upper neighbour alone; the latter mean
    nothing in grid row 0.

    Args:
        forked, params: the models and their parameters.
        ids, mask: the prompts, left-padded.
        codes: the images.
        grid: R and C.
    """
    layout, S = layout_of(forked.config, grid), ids.shape[1]
    x = image_sequence(Transformer(forked.config, forked.products), params["backbone"], ids, codes, layout)
    slots = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    right, below, _ = forked.hidden(params, x, slots, prompt_starts(mask), S, layout)
    left = predicting(right, S, layout)
    above = below[:, S + layout.places(np.arange(grid.size - grid.cols))]
    above = jnp.pad(above, ((0, 0), (grid.cols, 0), (0, 0)))
    positions = np.broadcast_to(np.arange(grid.size, dtype=np.int32), codes.shape)
    return forked.logits(params, left, above, positions, grid.cols)


def branch_task(
    name: str,
    forked: Forked,
    spec: BranchSpec,
    seed: int,
    source: CaptionedCodes,
    backbone: Any,
    start: Any,
    draw: Callable[[Any], np.ndarray],
) -> Task:
    """A stage of the training as a task for the loop.

    Args:
        name: of the stage.
        forked: the models.
        spec: settings of the stage.
        seed: determines, with the step, the batches.
        source: captions and codes.
        backbone: parameters of the backbone as it was, which the branch learns from; frozen.
        start: parameters to start from, {"branch": ...} or, to train the backbone as well, {"backbone": ..., ...}.
        draw: {"backbone": ..., "branch": ...} -> image [height, width, 3], samples of the current model.
    """
    config, heldout = forked.config, source.heldout(spec.eval_images)
    grid, cols = Grid(config.rows, config.cols), config.cols
    teacher, exact = Transformer(config, forked.products), Forked(config, forked.branch)

    def loss(params: Any, frozen: Any, batch: tuple, key: jax.Array):
        del key
        ids, mask, codes, seen = batch
        fused, above = forced(forked, {"backbone": frozen, **params}, ids, mask, seen, grid)
        nll, vertical = token_nll(fused, codes).mean(), token_nll(above[:, cols:], codes[:, cols:]).mean()
        total, metrics = nll + spec.vertical * vertical, {"nll": nll, "vertical": vertical}
        if spec.distillation:
            taught = teacher.apply(frozen, image_hidden(teacher, frozen, ids, mask, seen), method="logits")
            metrics["distillation"] = divergence(taught[:, cols:], above[:, cols:], spec.temperature)
            total += spec.distillation * metrics["distillation"]
        return total, metrics

    jitted = jax.jit(lambda params, *given: token_nll(forced(exact, params, *given, grid)[0], given[-1]))

    def complete(params: Any) -> Any:
        return {"backbone": backbone, **params}

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(mean_nll(jitted, complete(params), source, heldout, spec.batch).mean())}

    def rates(params: Any) -> Any:
        share = {"branch": 1.0, "backbone": spec.backbone_rate}
        return {part: jax.tree.map(lambda _, rate=share[part]: rate, values) for part, values in params.items()}

    return Task(
        name,
        None,
        loss,
        batches(source, spec, seed),
        evaluate,
        lambda params: draw(complete(params)),
        matrices=block_matrices,
        rates=rates,
        frozen=backbone,
        start=start,
        accumulation=spec.accumulation,
    )


def divergence(
    taught: Float32[Array, "*axes V"], learned: Float32[Array, "*axes V"], temperature: float
) -> Float32[Array, ""]:
    """Mean KL divergence of softened distributions, times the temperature squared (arXiv 1503.02531)."""
    log_p, log_q = (jax.nn.log_softmax(logits / temperature) for logits in (taught, learned))
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
