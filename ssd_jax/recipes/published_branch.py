"""Trains a vertical branch for a published backbone: the stage "flash" of `recipes.published`.

The first phase leaves the backbone as it is; its branch goes to `spec.export`. The second, if it has steps, trains both
and makes a checkpoint of its own, `spec.flash_export`.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.backbones import backbone_of
from ssd_jax.files import replacing
from ssd_jax.models.block import RECOMPUTED
from ssd_jax.models.branch import boxed_branch, init_branch
from ssd_jax.models.forked import Forked
from ssd_jax.models.matmul import PRODUCTS
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.parallel.mesh import place, using
from ssd_jax.parallel.processes import is_first, together
from ssd_jax.parallel.train_state import gathered
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.prompts import TOKENIZER_NAME
from ssd_jax.recipes.published_images import Images
from ssd_jax.recipes.published_spec import PublishedSpec
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.branch import Forking, branch_task, mean_over_images
from ssd_jax.training.head_training import EXPORT_DTYPE, digest
from ssd_jax.training.loop import fit
from ssd_jax.training.spec import BranchSpec
from ssd_jax.weights.export import write_tensors
from ssd_jax.weights.load import CONFIG_NAME
from ssd_jax.weights.part_file import BRANCH_FILE
from ssd_jax.weights.store import find_weights

Losses = dict[str, dict[str, float]]
"""State of the training -> loss -> its mean over held-out images."""


def train_branch(spec: PublishedSpec, pipe: Pipeline, grid: Grid, images: Images) -> tuple[Path, list[str]]:
    """Trains the phases of the spec and exports each one's result; returns the last one's folder and the report's
    lines, with their evaluation on held-out images."""
    config, mesh, backbone, weights = pipe.config, pipe.mesh, pipe.params, find_weights(pipe.folder)
    shapes = {"backbone": boxed_backbone(config), "branch": boxed_branch(config, spec.vertical_branch)}
    own = pipe.model.branch if pipe.model.branch and pipe.model.branch.config == spec.vertical_branch else None
    begun = "the checkpoint's own branch" if own else "copies of the last layers"
    origin = {**BRANCH_FILE.metadata(spec.vertical_branch, weights), **images.origin, "start": begun}
    picked, losses = images.source.heldout(spec.report_images), {}

    def phase(name: str, stage: BranchSpec, start: Any, origin: dict) -> Any:
        placed = None if mesh is None else {part: place(shapes[part], mesh) for part in start}
        forked = Forked(config, spec.vertical_branch, PRODUCTS[stage.matmul], RECOMPUTED)
        forking = Forking(forked, forked, grid, spec.window, mesh, placed)
        mean = mean_over_images(forking, stage, images.source.given)
        if not losses:
            losses["untrained"] = mean({"backbone": backbone, **start}, picked, backbone)
        task = branch_task(name, forking, stage, spec.seed, images.source, backbone, start)
        params = fit(task, stage, spec.seed, spec.workdir, origin)
        losses[name] = mean({"backbone": backbone, **jax.jit(stored)(params)}, picked, backbone)
        return params

    with using(mesh, config):
        copies = jax.jit(lambda params: init_branch(config, spec.vertical_branch, params, jax.random.key(spec.seed)))
        start = own.params if own else copies(backbone)
        params = phase("branch", spec.branch, {"branch": start}, origin)
        export = export_branch(spec, params["branch"], weights, mesh)
        if spec.flash.steps:
            origin["start"] = digest(gathered(params["branch"], mesh))
            params = phase("flash", spec.flash, {"backbone": backbone, **params}, origin)
            export = export_both(spec, params, pipe)
    return export, report(spec, pipe, images, losses)


def stored(params: Any) -> Any:
    """The parameters as an export has them."""
    bits = jnp.finfo(EXPORT_DTYPE)  # compilers may leave out a conversion to and fro
    return jax.tree.map(lambda leaf: jax.lax.reduce_precision(leaf, bits.nexp, bits.nmant), params)


def export_branch(spec: PublishedSpec, branch: Any, weights: Path, mesh: Any, folder: Path | None = None) -> Path:
    """Writes a branch beside the backbone file `weights`; returns the folder, by default `spec.export`."""
    folder, whole = folder or spec.export, on_host(branch, mesh)
    metadata = BRANCH_FILE.metadata(spec.vertical_branch, weights)
    together(f"{folder.name}: branch", lambda: write_tensors(folder / BRANCH_FILE.name, whole, EXPORT_DTYPE, metadata))
    return folder


def export_both(spec: PublishedSpec, params: Any, pipe: Pipeline) -> Path:
    """Writes a checkpoint of a trained backbone, in our tensor names, and its branch; the image tokenizer stays where
    it is."""
    folder, whole = spec.flash_export, on_host(params["backbone"], pipe.mesh)
    published = backbone_of(pipe.config).published
    own = () if published is None or published.tokenizer is None else published.tokenizer.names

    def write() -> None:
        write_tensors(folder / "model.safetensors", whole, EXPORT_DTYPE)
        for name in (CONFIG_NAME, TOKENIZER_NAME, *own):
            if (pipe.folder / name).is_file():
                with replacing(folder / name) as temporary:
                    shutil.copyfile(pipe.folder / name, temporary)

    together(f"{folder.name}: backbone", write)
    return export_branch(spec, params["branch"], folder / "model.safetensors", pipe.mesh, folder)


def on_host(params: Any, mesh: Any) -> Any:
    """The parameters in the memory of the first process, None for each in others. One at a time: all may not fit on
    one device."""

    def moved(leaf: jax.Array) -> np.ndarray | None:
        whole = gathered(leaf.astype(EXPORT_DTYPE), mesh)
        return np.asarray(whole) if is_first() else None

    return jax.tree.map(moved, params)


def report(spec: PublishedSpec, pipe: Pipeline, images: Images, losses: Losses) -> list[str]:
    """The evaluation as lines of markdown."""
    states = {"untrained": "untrained", "branch": "branch alone", "flash": "both"}
    steps = ", then ".join(
        f"{stage.steps} steps of {stage.batch} images ({name})" for name, stage in spec.phases.items()
    )
    layers, teacher = spec.vertical_branch.layers, next(iter(losses.values()))["teacher"]
    lines = [
        f"A vertical branch of {layers} layer{'s' * (layers > 1)} beside {pipe.folder} "
        f"(fingerprint {pipe.fingerprint()[:12]}), trained on {images.made}: {steps}. Means over at most "
        f"{spec.report_images} held-out images, in nats per token, without guidance; as `ar` draws them it is "
        f"{teacher:.3f}.",
        "",
        "| NLL | as `flash` draws | from above alone |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {states[name]} | {found['nll']:.3f} | {found['vertical']:.3f} |" for name, found in losses.items()
    ]
