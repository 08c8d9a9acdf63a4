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
from ssd_jax.models.branch import VerticalBranch, mixed
from ssd_jax.models.config import BranchConfig, ModelConfig
from ssd_jax.models.matmul import PRODUCTS
from ssd_jax.models.teacher_forcing import image_hidden, image_sequence, predicting
from ssd_jax.models.transformer import Transformer, layout_of
from ssd_jax.sequence.layout import Grid, prompt_starts, rotary_positions
from ssd_jax.sequence.masks import diagonal
from ssd_jax.training.backbone import batches, block_matrices, mean_nll
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import token_nll
from ssd_jax.training.spec import BranchSpec


class Forked:
    """A backbone with a vertical branch, run over given images.

    Args:
        config, branch: their configs.
        matmul: one of `PRODUCTS`.
    """

    def __init__(self, config: ModelConfig, branch: BranchConfig, matmul: str = "float32"):
        self.backbone = Transformer(config, PRODUCTS[matmul])
        self.branch = VerticalBranch(config, branch, PRODUCTS[matmul])
        self.grid = Grid(config.rows, config.cols)

    def logits(
        self,
        params: Any,
        ids: Int32[Array, "B S"],
        mask: Bool[Array, "B S"],
        codes: Int32[Array, "B {self.grid.size}"],
    ) -> tuple[Float32[Array, "B {self.grid.size} V"], Float32[Array, "B {self.grid.size} V"]]:
        """Teacher-forced logits of every code, as `flash` draws it and from its upper neighbour alone; the latter mean
        nothing in grid row 0.

        Args:
            params: {"backbone": ..., "branch": ...}.
            ids, mask: the prompts, left-padded.
            codes: the images.
        """
        backbone, branch, grid, S = params["backbone"], params["branch"], self.grid, ids.shape[1]
        layout = layout_of(self.backbone.config, grid)
        x = image_sequence(self.backbone, backbone, ids, codes, layout)
        keys = jnp.arange(x.shape[1], dtype=jnp.int32)
        slots, starts = jnp.broadcast_to(keys, x.shape[:2]), prompt_starts(mask)
        rotary = rotary_positions(slots, starts)
        seen = diagonal(slots, keys, starts, S, layout.pitch, grid.cols)
        fork = self.branch.branch.layers
        hidden, before, _ = self._run(self.backbone, backbone, x, rotary, seen, None, None, fork, method="forked")
        image = seen & ((keys[None] >= S) | (keys[None] == keys[:, None]))[None]
        below, _ = self._run(self.branch, branch, before, rotary, image, method="hidden")

        left = predicting(hidden, S, layout)
        above = below[:, S + layout.places(np.arange(grid.size - grid.cols))]
        above = jnp.pad(above, ((0, 0), (grid.cols, 0), (0, 0)))
        normed = self._run(self.backbone, backbone, left, method="normed")
        gate = self._run(self.branch, branch, normed, above, method="gate")
        from_left = self._run(self.backbone, backbone, left, method="logits")
        from_above = self._run(self.branch, branch, above, method="logits")
        positions = np.broadcast_to(np.arange(grid.size, dtype=np.int32), codes.shape)
        return mixed(gate, from_left, from_above, positions, grid.cols), from_above

    def _run(self, module: Any, params: Any, *arguments: Any, method: str) -> Any:
        return module.apply(params, *arguments, method=method)


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
    config, cols = forked.backbone.config, forked.grid.cols
    exact, heldout = Forked(config, forked.branch.branch), source.heldout(spec.eval_images)

    def loss(params: Any, frozen: Any, batch: tuple, key: jax.Array):
        del key
        ids, mask, codes, seen = batch
        fused, above = forked.logits({"backbone": frozen, **params}, ids, mask, seen)
        nll, vertical = token_nll(fused, codes).mean(), token_nll(above[:, cols:], codes[:, cols:]).mean()
        total, metrics = nll + spec.vertical * vertical, {"nll": nll, "vertical": vertical}
        if spec.distillation:
            hidden = image_hidden(forked.backbone, frozen, ids, mask, seen)
            taught = forked.backbone.apply(frozen, hidden, method="logits")
            metrics["distillation"] = divergence(taught[:, cols:], above[:, cols:], spec.temperature)
            total += spec.distillation * metrics["distillation"]
        return total, metrics

    jitted = jax.jit(lambda params, ids, mask, codes: token_nll(exact.logits(params, ids, mask, codes)[0], codes))

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
