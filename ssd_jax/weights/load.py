"""Reads a checkpoint folder: its config and the parameters of its models, in our tensor names or published ones."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from ssd_jax.backbones import PUBLISHED, backbone_of
from ssd_jax.backbones.hf_config import from_hf, with_tokens
from ssd_jax.backbones.hf_vq import vq_from_hf
from ssd_jax.models.config import ModelConfig, VQConfig
from ssd_jax.models.config_json import from_dict, read_json
from ssd_jax.models.int8 import scales
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.names import find_sources, ignored_names
from ssd_jax.weights.store import WeightsError, find_weights, opened
from ssd_jax.weights.tensors import read_tensors
from ssd_jax.weights.vq_names import find_vq_sources

CONFIG_NAME, TOKENIZER_NAME = "config.json", "tokenizer.json"
FORMAT = "ssd_jax-2"
"""Format of config.json and of heads files: matrices are [out, in]. In "ssd_jax-1" they were [in, out]."""


def read_backbone(
    path: Path, config: ModelConfig, like: Mapping[str, Any], dtype: DTypeLike, whole: bool = True
) -> dict[str, Any]:
    """Reads a backbone's parameters, under our own or published names; otherwise as `read_tensors`. Unless `whole`, the
    file may hold more than the config has, such as further layers."""
    names = opened(path).tensors.keys()
    if "embedding" in names or config.architecture not in PUBLISHED:
        return read_tensors(path, like, dtype, ignored="" if whole else ".*")
    leaves = flatten(like)
    try:
        sources = find_sources(config, leaves.keys() - scales(leaves), names)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return read_tensors(path, like, dtype, sources, ignored_names(config) if whole else ".*")


def read_vq(path: Path, family: str, like: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an image tokenizer's parameters, in float32, under our own or published names; otherwise as `read_tensors`.

    Args:
        path: the tokenizer's own file, or that of a full published model; or the index of a sharded one.
        family: `ModelConfig.architecture`.
        like: as for `read_tensors`.
    """
    shapes = {name: tensor.shape for name, tensor in opened(path).tensors.items()}
    if family not in PUBLISHED or "codebook" in shapes:
        return read_tensors(path, like, jnp.float32)
    try:
        sources = find_vq_sources(family, like, shapes)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return read_tensors(path, like, jnp.float32, sources, ignored=".*")


def find_vq_weights(source: Path, family: str) -> Path:
    """The file or index with an image tokenizer: `source` itself, or in that folder the tokenizer's own file or, for
    published models, the model's, which often holds both."""
    source = Path(source)
    if source.is_file():
        return source
    for path in (source / "vq.safetensors", source / "vqgan.safetensors"):
        if path.exists() or family not in PUBLISHED:
            return path
    return find_weights(source)


def read_config(
    folder: Path, tokens: Mapping[str, int] | None = None
) -> tuple[ModelConfig, VQConfig | VQGANConfig | MoVQConfig]:
    """Reads `config.json` of a checkpoint folder, in our own format or as published.

    Args:
        folder: the folder; its tokenizer.json, if any, gives special ids of a published model.
        tokens: special ids that override the files' (see `backbones.hf_config.from_hf`).
    Raises:
        UserError: a missing or invalid file, which it names.
    """
    path = Path(folder) / CONFIG_NAME
    values = read_json(path)
    ours = str(values.get("format", "")).startswith("ssd_jax")
    if not ours and ("model_type" in values or "architectures" in values):
        model = from_hf(values, read_vocabulary(folder), tokens, str(path))
        return model, vq_from_hf(model.architecture, values, str(path))
    check_format(path, values)
    for name in ("model", "vq"):
        if name not in values:
            raise WeightsError(f"{path}: section {name!r} is missing.")
    model = from_dict(ModelConfig, values["model"], f"{path}: model")
    backbone_of(model, f"{path}: model")
    return with_tokens(model, tokens, str(path)), from_dict(VQConfig, values["vq"], f"{path}: vq")


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id of a folder's tokenizer.json; empty without such a file."""
    path = Path(folder) / TOKENIZER_NAME
    if not path.exists():
        return {}
    values = read_json(path)
    try:
        vocabulary = values["model"]["vocab"]
        vocabulary = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        return vocabulary | {token["content"]: token["id"] for token in values.get("added_tokens") or ()}
    except (KeyError, TypeError):
        raise WeightsError(f"{path} is not a tokenizer file.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The text in a safetensors file's header; empty if there is none."""
    return dict(opened(path).metadata)


def fingerprint(path: Path) -> str:
    """Identifies a backbone's file or index: sha256 of the sorted tensor names with shapes and of all 1-D tensors.

    Only 1-D tensors are hashed, because a backbone may have 16 GB: they are the norm scales, a few kilobytes, and as
    trained parameters they differ between any two trainings. Untrained backbones, whose scales are all ones, and
    backbones that differ in matrices only are not distinguished. The hash is of the stored bytes: the dtype in which a
    file is loaded and its sharding do not matter, but the same weights saved in another dtype are another file.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(opened(path).tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        if len(tensor.shape) == 1:
            digest.update(tensor.read())
    return digest.hexdigest()


def check_format(path: Path, values: Mapping[str, Any]) -> None:
    """Raises `WeightsError` for a config.json, or the metadata of a heads file, in another format than ours."""
    found = values.get("format")
    if found != FORMAT:
        hint = " (an earlier version of ssd_jax wrote it, with its matrices the other way round; export it anew)"
        old = found == "ssd_jax-1" or found is None and "backbone" in values
        raise WeightsError(f"{path}: format must be {FORMAT!r}, not {found!r}{hint if old else ''}.")
