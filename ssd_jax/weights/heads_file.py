"""Finds files of draft heads and reads their headers, which hold the config and the backbone's fingerprint."""

from pathlib import Path

from ssd_jax.files import parse_json, require_name
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.config_json import from_dict
from ssd_jax.weights.load import check_format, fingerprint, read_metadata
from ssd_jax.weights.store import WeightsError

HEADS_NAME = "heads.safetensors"

HEADS_KEY = "heads"
"""The metadata of a heads file: JSON with `format`, `config` and `backbone`, the fingerprint of that file."""


def heads_file(path: Path) -> Path:
    """The file of draft heads: the path itself, or the file in that folder, which need not exist."""
    return path / HEADS_NAME if require_name(path).is_dir() else path


def read_heads_config(path: Path, backbone_path: Path) -> HeadsConfig:
    """The config of a heads file; raises `WeightsError` unless the heads were trained on this backbone file."""
    config, trained_on = describe_heads(path)
    if trained_on != fingerprint(backbone_path):
        raise WeightsError(f"{path}: these draft heads were trained on another backbone than {backbone_path}.")
    return config


def describe_heads(path: Path) -> tuple[HeadsConfig, str]:
    """The config of a heads file and the fingerprint of its backbone, read from the header."""
    metadata = read_metadata(path)
    if HEADS_KEY not in metadata:
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is missing, so this is no file of draft heads.")
    try:
        values = parse_json(metadata[HEADS_KEY])
        found, trained_on = values["config"], values["backbone"]
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is not JSON with 'config' and 'backbone'.") from None
    check_format(path, values)
    config = from_dict(HeadsConfig, found, f"{path}: {HEADS_KEY}")
    if not config.offsets:
        raise WeightsError(f"{path}: {HEADS_KEY} lists no draft heads.")
    return config, trained_on
