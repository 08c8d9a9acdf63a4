"""Gives a pipeline the parts of its checkpoint that are read only on first use: prompts and image tokenizer."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ssd_jax.backbones.prompting import read_prompts
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq
from ssd_jax.weights.load import find_vq_weights, fingerprint, read_vq
from ssd_jax.weights.store import WeightsError, find_weights


class Origin(Protocol):
    """The source of a `Pipeline`'s weights.

    Attributes:
        folder: the checkpoint's folder; None if there is none.
        name: for records.
    """

    folder: Path | None
    name: str

    def fingerprint(self) -> str:
        """Identifies the backbone."""

    def fingerprints(self, config: ModelConfig) -> dict[str, str | None]:
        """Identifies "backbone", "heads", "branch" and "tokenizer"; None for what no file has."""

    def prompts(self, config: ModelConfig) -> Any:
        """The prompts, see `backbones.base.Prompts`."""

    def tokenizer(self, config: ModelConfig, vq: AnyVQConfig) -> Any:
        """The image tokenizer's parameters, float32, on one device."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder with a backbone's weights.

    Attributes:
        folder: the checkpoint's folder.
        vq_weights: the image tokenizer's file or folder; None: it is in the checkpoint's folder.
        tokens: special ids, by key, that take precedence over those of its files; None is none.
        heads, branch: the files of the draft heads and of the vertical branch; None: there are none.
    """

    folder: Path
    vq_weights: Path | None = None
    tokens: Mapping[str, int] | None = None
    heads: Path | None = None
    branch: Path | None = None

    @property
    def name(self) -> str:
        """The folder, for records."""
        return str(self.folder)

    def fingerprint(self) -> str:
        """Identifies the backbone's file (see `weights.load.fingerprint`)."""
        return fingerprint(find_weights(self.folder))

    def fingerprints(self, config: ModelConfig) -> dict[str, str | None]:
        """Fingerprints of the files of "backbone" and "tokenizer", and the sha256 of those of "heads" and "branch",
        which may have no 1-D tensors; None for a missing file. Raises `WeightsError` for files that can no longer be
        read."""
        path = self.vq_path(config)
        parts = {"heads": sha256(self.heads), "branch": sha256(self.branch)}
        return {"backbone": self.fingerprint(), **parts, "tokenizer": fingerprint(path) if path.exists() else None}

    def prompts(self, config: ModelConfig) -> Any:
        """The prompts, with the folder's tokenizer."""
        return read_prompts(self.folder, config, self.tokens)

    def vq_path(self, config: ModelConfig) -> Path:
        """The file or index with the image tokenizer's parameters."""
        return find_vq_weights(self.vq_weights or self.folder, config.architecture)

    def tokenizer(self, config: ModelConfig, vq: AnyVQConfig) -> Any:
        """The image tokenizer's parameters, read from their file; raises `UserError` if they cannot be."""
        return read_vq(self.vq_path(config), config.architecture, abstract_vq(vq))


def sha256(path: Path | None) -> str | None:
    """Of a file's bytes; None without one. Raises `WeightsError` if it cannot be read."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from None
