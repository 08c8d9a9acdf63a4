"""Finds a model's configs without its weights, from a checkpoint folder or a config file."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssd_jax.backbones import backbone_of
from ssd_jax.errors import UserError
from ssd_jax.models.config import BranchConfig, HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.models.vq_models import AnyVQConfig
from ssd_jax.pipeline.loading import find_folder_here
from ssd_jax.weights.load import read_config
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE
from ssd_jax.weights.published_branch import published_branch


class Models(NamedTuple):
    """The backbone, its draft heads, the image tokenizer, and the vertical branch, None without one."""

    backbone: ModelConfig
    heads: HeadsConfig
    tokenizer: AnyVQConfig
    branch: BranchConfig | None = None


def find_models(
    config: Mapping, where: str, weights: str = "", heads: str | Path | None = None, branch: str | None = None
) -> Models:
    """The models of a config file. At most the headers of files with weights are read.

    Args:
        config: a config with a section `model` and, optionally, `heads_model` and `vq`.
        where: name of the config file in error messages.
        weights: a checkpoint folder or the name of a bundled one, whose config.json takes precedence; "" is none.
        heads: a file of draft heads or its folder; None is the checkpoint's own. Without any, they are those that
            training would make: `heads_model`, or five to the right and two down.
        branch: a vertical branch, likewise, or that of `branch_model`; None without either.
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
        published = backbone_of(backbone, f"{where}: model").published
        if published is None:
            tokenizer = from_dict(VQConfig, dict(config["vq"]), f"{where}: vq")
        else:
            tokenizer = published.vq.config
    heads_path = HEADS_FILE.choose(None if heads is None else Path(heads), folder)
    branch_path = BRANCH_FILE.choose(None if branch is None else Path(branch), folder)
    if heads_path is not None:
        drafters, _ = HEADS_FILE.describe(heads_path)
    else:
        drafters = from_dict(HeadsConfig, dict(config.get("heads_model", {})), f"{where}: heads_model")
    below = None if folder is None else published_branch(folder, backbone)
    if branch_path is not None:
        below, _ = BRANCH_FILE.describe(branch_path)
    elif below is None and "branch_model" in config:
        below = from_dict(BranchConfig, dict(config["branch_model"]), f"{where}: branch_model")
    return Models(backbone, drafters, tokenizer, below)
