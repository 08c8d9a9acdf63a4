"""Trains draft heads for a published backbone: the stage "heads" of `recipes.published`."""

from pathlib import Path

from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.recipes.published_images import Images
from ssd_jax.recipes.published_spec import PublishedSpec
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.head_training import Frozen, tables, train_draft_heads
from ssd_jax.weights.store import find_weights


def train_heads(spec: PublishedSpec, pipe: Pipeline, grid: Grid, images: Images) -> tuple[Path, list[str]]:
    """Trains them on the backbone's teacher-forced states and exports them to `spec.export`; returns that folder and
    the report's lines, with their evaluation on held-out images."""
    frozen = Frozen(LoadedModel(pipe.params, pipe.config), grid, find_weights(pipe.folder), pipe.mesh)
    found = train_draft_heads(frozen, images.source, spec.heads, spec.workdir, images.origin)
    heads = spec.heads
    return spec.export, [
        f"Draft heads of {pipe.folder} (fingerprint {pipe.fingerprint()[:12]}), trained on {images.made}: "
        f"{heads.smooth_l1.steps} steps of {heads.smooth_l1.batch} images on Smooth L1, {heads.overlap.steps} of "
        f"{heads.overlap.batch} on overlap. Means over at most {heads.report_images} held-out images; overlap is the "
        "chance that a draft is kept, with the model's own guidance and top-k.",
        *tables(found),
    ]
