"""Trains a vertical branch: first on a frozen backbone, whose own distributions it learns, too; then both together.

Source: FlashAR, arXiv 2605.09430, and its released code: first the branch alone, which also learns the backbone's own
distributions; then everything, the backbone at a fraction of the rate.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from ssd_jax.data.batches import PromptedSource, Rows, whole_batches
from ssd_jax.models.diagonal_forcing import neighbour_states
from ssd_jax.models.forked import Forked
from ssd_jax.models.teacher_forcing import forced
from ssd_jax.models.transformer import Transformer
from ssd_jax.parallel.train_state import spread
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.backbone import batches, block_matrices
from ssd_jax.training.draft_loss import LIMIT, rows_of_band
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import token_nll
from ssd_jax.training.spec import BranchSpec


@dataclasses.dataclass(frozen=True)
class Forking:
    """What a training of a branch computes with.

    Attributes:
        forked: the models, as they are trained.
        measured: the models, as they are evaluated.
        grid: the images' grid.
        window: inputs per forward pass of a frozen backbone; 0 is all (see `models.diagonal_forcing`).
        mesh: the devices over which parameters and batches are sharded; None is one.
        placed: shapes and shardings of what is trained, for `Task.placed`.
        limit: about the most logits at once; images are processed one band of grid rows at a time.
    """

    forked: Forked
    measured: Forked
    grid: Grid
    window: int = 0
    mesh: Any = None
    placed: Any = None
    limit: int = LIMIT


def mean_losses(
    forking: Forking,
    spec: BranchSpec,
    params: Any,
    ids: Int32[Array, "B S"],
    mask: Bool[Array, "B S"],
    codes: Int32[Array, "B size"],
    seen: Int32[Array, "B size"],
    teacher: Any = None,
) -> dict[str, Float32[Array, ""]]:
    """Means over the codes of given images: "nll" as `flash` draws them, "vertical", that from the upper neighbour
    alone, and with a teacher "distillation", the divergence of the latter from its distributions (both without grid row
    0), and "teacher", its own loss.

    Args:
        forking, spec: the models and the settings.
        params: {"backbone": ..., "branch": ...}.
        ids, mask, codes: the images and their prompts, left-padded.
        seen: the codes that the models are fed.
        teacher: parameters of the backbone to learn from, which predicts in raster order.
    """
    forked, grid = forking.forked, forking.grid
    left, above = neighbour_states(forked, params, ids, mask, seen, grid, forking.window)
    states, model = [left, above], Transformer(forked.config, forked.products)
    if teacher is not None:
        states.append(forced(model, teacher, ids, mask, seen, grid, forking.window))
    B, C = codes.shape[0], grid.cols

    def sums(first: Int32[Array, ""] | int, rows: int) -> Float32[Array, " losses"]:
        """Of a band of grid rows, `first` tokens behind the image's first."""

        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, first, rows * C, axis=1)

        position = jnp.broadcast_to(first + jnp.arange(rows * C, dtype=jnp.int32), (B, rows * C))
        wanted, lower = cut(codes), position >= C
        with nn.logical_axis_rules(()):  # for sampling, a sharded model replicates its logits; here they stay sharded
            mixture, alone = forked.logits(params, cut(left), cut(above), position, C)
            found = [token_nll(mixture, wanted).sum(), jnp.where(lower, token_nll(alone, wanted), 0.0).sum()]
            if teacher is not None:
                taught = model.apply(teacher, cut(states[2]), method="logits")
                found.append(jnp.where(lower, divergence(taught, alone, spec.temperature), 0.0).sum())
                found.append(token_nll(taught, wanted).sum())
        return jnp.stack(found)

    rows = rows_of_band(grid, forking.limit, B * forked.config.visual_size)
    if rows == grid.rows:
        total = sums(0, rows)
    else:  # a band's arrays are computed again for its gradient, not kept
        starts = jnp.arange(0, grid.size, rows * C, dtype=jnp.int32)
        total = jax.lax.map(jax.checkpoint(lambda first: sums(first, rows)), starts).sum(axis=0)
    lower = max(1, grid.size - C)
    counts = {"nll": grid.size, "vertical": lower}
    if teacher is not None:
        counts |= {"distillation": lower, "teacher": grid.size}
    return {name: value / (B * count) for (name, count), value in zip(counts.items(), total, strict=True)}


def branch_task(
    name: str,
    forking: Forking,
    spec: BranchSpec,
    seed: int,
    source: PromptedSource,
    backbone: Any,
    start: Any,
    draw: Callable[[Any], np.ndarray] | None = None,
) -> Task:
    """A phase of the training as a task for the loop.

    Args:
        name: of the phase.
        forking: the models.
        spec: settings of the phase.
        seed: determines, with the step, the batches.
        source: images as codes with their prompts.
        backbone: parameters of the backbone as it was, which the branch learns from; frozen.
        start: parameters to start from, {"branch": ...} or, to train the backbone as well, {"backbone": ..., ...}.
        draw: {"backbone": ..., "branch": ...} -> image [height, width, 3], samples of the current model.
    """
    heldout = source.heldout(spec.eval_images)
    alone = "backbone" not in start
    if not alone:
        forking = dataclasses.replace(forking, window=0)

    def complete(params: Any, frozen: Any) -> Any:
        return {"backbone": frozen, **params} if alone else params

    def loss(params: Any, frozen: Any, batch: tuple, key: jax.Array):
        del key
        ids, mask, codes, seen = batch
        teacher = frozen if spec.distillation else None
        found = mean_losses(forking, spec, complete(params, frozen), ids, mask, codes, seen, teacher)
        total = found["nll"] + spec.vertical * found["vertical"]
        return total + spec.distillation * found.get("distillation", 0.0), found

    mean = mean_over_images(forking, spec, source.given)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": mean(complete(params, backbone), heldout)["nll"]}

    def rates(params: Any) -> Any:
        share = {"branch": 1.0, "backbone": spec.backbone_rate}
        return {part: jax.tree.map(lambda _, rate=share[part]: rate, values) for part, values in params.items()}

    return Task(
        name,
        None,
        loss,
        batches(source, spec, seed),
        evaluate,
        None if draw is None else lambda params: draw(complete(params, backbone)),
        matrices=block_matrices,
        rates=rates,
        frozen=backbone if alone or spec.distillation else None,
        start=start,
        accumulation=spec.accumulation,
        mesh=forking.mesh,
        placed=forking.placed,
    )


def mean_over_images(
    forking: Forking, spec: BranchSpec, rows: Callable[[np.ndarray], Rows]
) -> Callable[..., dict[str, float]]:
    """Returns (params, image indices, teacher or None) -> `mean_losses` of the `measured` models over full batches of
    `rows(indices)`."""
    forking = dataclasses.replace(forking, forked=forking.measured)

    @jax.jit
    def jitted(params: Any, teacher: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array):
        return mean_losses(forking, spec, params, ids, mask, codes, codes, teacher)

    def mean(params: Any, indices: np.ndarray, teacher: Any = None) -> dict[str, float]:
        parts = [spread(rows(part), forking.mesh) for part in whole_batches(indices, spec.micro_batch)]
        found = [jax.device_get(jitted(params, teacher, *part)) for part in parts]
        return {name: float(np.mean([values[name] for values in found], dtype=np.float64)) for name in found[0]}

    return mean


def divergence(
    taught: Float32[Array, "*axes V"], learned: Float32[Array, "*axes V"], temperature: float
) -> Float32[Array, "*axes"]:
    """KL divergence of softened distributions, times the temperature squared (arXiv 1503.02531)."""
    log_p, log_q = (jax.nn.log_softmax(logits / temperature) for logits in (taught, learned))
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
