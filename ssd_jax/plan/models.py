"""Which model a plan is for: that of a checkpoint folder, or, without one, what a config file says."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssd_jax.errors import UserError
from ssd_jax.loading import find_folder_here
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig, from_dict
from ssd_jax.models.vq_config import DEFAULTS
from ssd_jax.models.vq_models import AnyVQConfig
from ssd_jax.plan.job import Job
from ssd_jax.prompts import grid_of
from ssd_jax.request import whole_batch
from ssd_jax.sharding import DATA, MODEL, parse_mesh
from ssd_jax.weights.load import describe_heads, read_config


class Models(NamedTuple):
    """The backbone, its draft heads, and the image tokenizer."""

    backbone: ModelConfig
    heads: HeadsConfig
    tokenizer: AnyVQConfig


def find_models(config: Mapping, where: str, weights: str = "", heads: str | None = None) -> Models:
    """The models of a config file. Of files with weights the headers are read at most.

    Args:
        config: with a section `model` and, perhaps, `heads_model` and `vq`.
        where: the config file, for error messages.
        weights: a checkpoint folder or the name of a bundled one, whose config.json goes before the config; "" is none.
        heads: a file of draft heads or its folder; None is the checkpoint's own. Without any, heads that are not
            trained yet are planned with: those of `heads_model`, or five to the right and two down.
    Raises:
        UserError: no such folder, or a malformed file.
    """
    folder = find_folder_here(weights) if weights else None
    if weights and folder is None:
        raise UserError(f"There is no checkpoint folder {weights!r} to plan for; nothing is downloaded for a plan.")
    if folder is not None:
        backbone, tokenizer = read_config(folder)
    else:
        backbone = from_dict(ModelConfig, dict(config["model"]), f"{where}: model")
        tokenizer = DEFAULTS.get(backbone.architecture)
        if tokenizer is None:
            tokenizer = from_dict(VQConfig, dict(config["vq"]), f"{where}: vq")
    path = Path(heads) if heads is not None else folder
    path = path / "heads.safetensors" if path is not None and path.is_dir() else path
    if heads is not None or path is not None and path.exists():
        return Models(backbone, describe_heads(path)[0], tokenizer)
    planned = from_dict(HeadsConfig, dict(config.get("heads_model", {})), f"{where}: heads_model")
    return Models(backbone, planned, tokenizer)


def job_for(models: Models, mesh: str, size: str | None, images: int, cfg_scale: float | None) -> Job:
    """The job of a command line: `mesh` as --mesh has it ("" is one device), `size` as --size, `images` at once, which
    are made more until they fill the mesh; None is the backbone's own. Raises `UserError` for what cannot be."""
    backbone, _, tokenizer = models
    sizes = parse_mesh(mesh) if mesh else {DATA: 1, MODEL: 1}
    guided = (backbone.cfg_scale if cfg_scale is None else cfg_scale) != 1.0
    return Job(
        *models,
        grid=grid_of(backbone, size, tokenizer.stride),
        images=whole_batch(images, guided, sizes[DATA]),
        guided=guided,
        data=sizes[DATA],
        model=sizes[MODEL],
    )
