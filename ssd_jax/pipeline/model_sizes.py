"""Finds a model's configs without its weights, from a checkpoint folder or a config file."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ssd_jax.backbones import backbone_of
from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.models.vq_models import AnyVQConfig
from ssd_jax.pipeline.loading import find_folder_here
from ssd_jax.weights.heads_file import describe_heads, heads_file
from ssd_jax.weights.load import read_config
from ssd_jax.weights.store import is_there


class Models(NamedTuple):
    """The backbone, its draft heads, and the image tokenizer."""

    backbone: ModelConfig
    heads: HeadsConfig
    tokenizer: AnyVQConfig


def find_models(config: Mapping, where: str, weights: str = "", heads: str | None = None) -> Models:
    """The models of a config file. At most the headers of files with weights are read.

    Args:
        config: a config with a section `model` and, optionally, `heads_model` and `vq`.
        where: name of the config file in error messages.
        weights: a checkpoint folder or the name of a bundled one, whose config.json takes precedence; "" is none.
        heads: a file of draft heads or its folder; None is the checkpoint's own. Without any, they are those that
            training would make: `heads_model`, or five to the right and two down.
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
    path = Path(heads) if heads is not None else folder
    path = None if path is None else heads_file(path)
    if heads is not None or path is not None and is_there(path):
        return Models(backbone, describe_heads(path)[0], tokenizer)
    planned = from_dict(HeadsConfig, dict(config.get("heads_model", {})), f"{where}: heads_model")
    return Models(backbone, planned, tokenizer)
