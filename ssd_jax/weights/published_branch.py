"""Reads the vertical branch that a published checkpoint holds beside its backbone, in the same file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from ssd_jax.backbones import PUBLISHED
from ssd_jax.models.config import BranchConfig, ConfigError, ModelConfig
from ssd_jax.models.config_json import read_json
from ssd_jax.models.int8 import scales
from ssd_jax.weights.load import CONFIG_NAME
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.names import find_branch_sources
from ssd_jax.weights.tensors import read_tensors


def published_branch(folder: Path, config: ModelConfig) -> BranchConfig | None:
    """The config of the branch that a published checkpoint holds beside its backbone; None if it has none.

    Raises:
        ConfigError: config.json describes a branch that cannot be ours.
    """
    published = PUBLISHED.get(config.architecture)
    if published is None or published.branch is None:
        return None
    path = folder / CONFIG_NAME
    try:
        return published.branch.config(read_json(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_published_branch(path: Path, config: ModelConfig, like: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Reads its parameters from the file of the backbone, or the index of its shards; otherwise as `read_tensors`."""
    leaves = flatten(like)
    sources = find_branch_sources(config, leaves.keys() - scales(leaves))
    return read_tensors(path, like, dtype, sources, ignored=".*")
