"""Trains draft heads on the hidden states of a frozen backbone (arXiv 2606.20543), and evaluates them."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from optax.contrib import MuonDimensionNumbers

from ssd_jax.data.batches import PromptedSource, Rows, whole_batches
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.draft_heads import boxed_heads, init_heads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.parallel.mesh import place, using
from ssd_jax.parallel.processes import together
from ssd_jax.parallel.train_state import gathered, spread
from ssd_jax.pipeline.request import sampler_of
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.draft_loss import Drafting, Objective, Overlap, SmoothL1, guided_overlap, mean_per_offset
from ssd_jax.training.loop import Task, fit
from ssd_jax.training.spec import PromptedSpec
from ssd_jax.weights.export import write_heads_card, write_tensors
from ssd_jax.weights.part_file import HEADS_FILE
from ssd_jax.weights.tensors import read_tensors

EXPORT_DTYPE = jnp.bfloat16

Values = dict[str, dict[str, dict[str, float]]]
"""{measure: {stage of training: {offset: value}}}"""


@dataclasses.dataclass(frozen=True)
class DraftHeadsSpec:
    """Settings of a training of draft heads.

    Attributes:
        heads: config of the draft heads.
        smooth_l1, overlap: the two phases of their training, in order; 0 steps skip the second.
        seed: determines, with the step, the batches.
        window: positions per forward pass of the backbone; 0 is all.
        report_images: the most held-out images on which the finished heads are evaluated.
    """

    heads: HeadsConfig
    smooth_l1: PromptedSpec
    overlap: PromptedSpec
    seed: int
    window: int
    report_images: int


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The frozen backbone of the draft heads.

    Attributes:
        model: its parameters and config.
        grid: the images' grid.
        weights: the file of the parameters, or the index of its shards.
        mesh: the devices over which they are sharded; None is one.
    """

    model: LoadedModel
    grid: Grid
    weights: Path
    mesh: Mesh | None = None

    def drafting(self, spec: DraftHeadsSpec, matmul: str = "float32") -> Drafting:
        """The configs of a computation with its draft heads; `matmul` is one of `PRODUCTS`."""
        return Drafting(self.model.config, spec.heads, self.grid, matmul, spec.window)


def train_draft_heads(
    frozen: Frozen, source: PromptedSource, spec: DraftHeadsSpec, workdir: Path, data: dict[str, Any]
) -> Values:
    """Trains draft heads and writes `<workdir>/export/heads.safetensors`; resumes an interrupted run.

    Args:
        frozen: the backbone.
        source: images as codes with their prompts.
        spec: settings of the training.
        workdir: folder of checkpoints, logs and export.
        data: JSON that identifies the source; states from a training on other data are refused with a `UserError`.
    Returns:
        Smooth L1 and overlap of the untrained heads, after each phase, and of the final heads as stored.
    """
    path = workdir / "export" / "heads.safetensors"
    origin = {**HEADS_FILE.metadata(spec.heads, frozen.weights), **data}
    with using(frozen.mesh, frozen.model.config):
        task = draft_task("heads", SmoothL1(), frozen, source, spec, spec.smooth_l1)
        params = fit(task, spec.smooth_l1, spec.seed, workdir, origin)
        states = {"Smooth L1": params}
        if spec.overlap.steps:
            begun = digest(gathered(params, frozen.mesh))
            task = draft_task("overlap", Overlap(), frozen, source, spec, spec.overlap, params)
            params = fit(task, spec.overlap, spec.seed, workdir, {**origin, "start": begun})
            states["Smooth L1, then overlap"] = params
        whole = gathered(params, frozen.mesh)
        together("heads: exported", lambda: export_heads(path, whole, spec.heads, frozen.weights))
        shapes = place(boxed_heads(spec.heads, frozen.model.config.width), frozen.mesh)
        states[list(states)[-1]] = read_tensors(path, shapes, jnp.float32)
        return measure(frozen, source, spec, states)


def draft_task(
    name: str,
    objective: Objective,
    frozen: Frozen,
    source: PromptedSource,
    spec: DraftHeadsSpec,
    phase: PromptedSpec,
    start: Any = None,
) -> Task:
    """A phase of the training as a task for the loop; `start` are the parameters after the previous phase."""
    drafting = frozen.drafting(spec, phase.matmul)
    values = partial(mean_per_offset, objective, drafting)
    heldout = source.heldout(phase.eval_images)
    mean = mean_over_images(values, frozen, source.given, phase.micro_batch)

    def loss(params: Any, backbone: Any, batch: Rows, key: jax.Array):
        del key
        each = values(params, backbone, *batch)
        return objective.loss(each), named(objective.name, each, spec.heads)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(objective.loss(mean(params, heldout)))}

    return Task(
        name,
        None if start is not None else lambda key: init_heads(drafting.drafter, key),
        loss,
        lambda step: source.batch(phase.batch, phase.dropped, spec.seed, step),
        evaluate,
        matrices=head_matrices,
        frozen=frozen.model.params,
        start=start,
        accumulation=phase.accumulation,
        mesh=frozen.mesh,
        placed=placed_heads(drafting, frozen.mesh),
    )


def measure(frozen: Frozen, source: PromptedSource, spec: DraftHeadsSpec, trained: dict[str, Any]) -> Values:
    """Smooth L1 and overlap on held-out images, the latter with the model's default guidance and top-k.

    `trained` are the heads' parameters after each phase of their training; the untrained heads, which copy, are added.
    """
    config, embedding = frozen.model.config, frozen.model.params["params"]["embedding"]
    # With the products of decoding, where heads have the backbone's dtype.
    drafting = frozen.drafting(spec, "bfloat16" if embedding.dtype == jnp.bfloat16 else "float32")
    picked, batch = source.heldout(spec.report_images), spec.smooth_l1.micro_batch
    sampler = sampler_of(config, config.cfg_scale, temperature=1.0, top_k=None, top_p=None)
    states = {"untrained": untrained(drafting, frozen.mesh), **trained}
    objectives = {"Smooth L1": (SmoothL1(), source.given), "overlap": (guided_overlap(sampler), source.guided)}
    names, out = [offset_name(offset) for offset in spec.heads.offsets], {}
    for name, (objective, rows) in objectives.items():
        mean = mean_over_images(partial(mean_per_offset, objective, drafting), frozen, rows, batch)
        out[name] = {
            state: dict(zip(names, map(float, mean(params, picked)), strict=True)) for state, params in states.items()
        }
    return out


def mean_over_images(
    values: Callable[..., jax.Array], frozen: Frozen, rows: Callable[[np.ndarray], Rows], batch: int
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Compiles values(params, backbone, ids, mask, codes) -> [O]; returns (params, image indices) -> its mean over full
    batches of `rows(indices)`, float64 [O]."""
    jitted = jax.jit(values)

    def mean(params: Any, indices: np.ndarray) -> np.ndarray:
        parts = (spread(rows(part), frozen.mesh) for part in whole_batches(indices, batch))
        found = [np.asarray(jitted(params, frozen.model.params, *part), np.float64) for part in parts]
        return np.mean(found, axis=0)

    return mean


def untrained(drafting: Drafting, mesh: Mesh | None = None) -> Any:
    """Untrained draft heads, which copy their source, on the mesh."""
    shardings = None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, placed_heads(drafting, mesh))
    return jax.jit(lambda: init_heads(drafting.drafter, jax.random.key(0)), out_shardings=shardings)()


def placed_heads(drafting: Drafting, mesh: Mesh | None) -> Any:
    """Abstract draft heads with their shardings, for `Task.placed`."""
    return None if mesh is None else place(boxed_heads(drafting.heads, drafting.model.width), mesh)


def head_matrices(params: Any) -> Any:
    """The parameters that Muon trains: the stacked matrices, one per offset."""
    return jax.tree.map(lambda p: MuonDimensionNumbers(p.ndim - 1, p.ndim - 2) if p.ndim > 2 else None, params)


def offset_name(offset: tuple[int, int]) -> str:
    """ "right+2", "down+1"."""
    down, right = offset
    return f"down+{down}" if down else f"right+{right}"


def named(what: str, each: jax.Array, config: HeadsConfig) -> dict[str, jax.Array]:
    """Metrics of a step from one value per offset, [O]: {"<what>_right+1": value, ...}."""
    return {f"{what}_{offset_name(offset)}": value for offset, value in zip(config.offsets, each, strict=True)}


def digest(params: Any) -> str:
    """Digest of all bits of the parameters."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def export_heads(path: Path, params: Any, heads: HeadsConfig, backbone_path: Path) -> None:
    """Writes heads.safetensors and, beside it, its model card."""
    write_tensors(path, params, EXPORT_DTYPE, HEADS_FILE.metadata(heads, backbone_path))
    write_heads_card(path, heads, backbone_path)


def tables(values: Values) -> list[str]:
    """The result of `measure` as lines of markdown, a table for each measure."""
    lines = []
    for name, states in values.items():
        lines += ["", f"| {name} | {' | '.join(states)} |", "|---" * (len(states) + 1) + "|"]
        for offset in next(iter(states.values())):
            lines.append(f"| {offset} | {' | '.join(f'{found[offset]:.3f}' for found in states.values())} |")
    return lines
