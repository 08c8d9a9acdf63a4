"""Reads model configurations from JSON and checks every number against a bound."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssd_jax.errors import shown
from ssd_jax.files import parse_json, require_file
from ssd_jax.models.config import SPECIAL, UNKNOWN, BranchConfig, ConfigError, HeadsConfig, ModelConfig, VQConfig

LEVELS = 12
"""The most resolution levels that an image tokenizer may have."""

HIGHEST = {
    "vocab_size": 2**22,
    "layers": 2**11,
    "width": 2**18,
    "mlp_width": 2**20,
    "heads": 2**11,
    "kv_heads": 2**11,
    "head_dim": 2**12,
    "rope_theta": 1e12,
    "norm_eps": 1.0,
    "code_width": 2**16,
    "head_width": 2**18,
    "rows": 2**10,
    "cols": 2**10,
    "cfg_scale": 1000.0,
    "top_k": 2**31 - 1,
    "horizontal": 2**7,
    "vertical": 2**7,
    "context": 2**7,
    "channels": 2**13,
    "multipliers": 2**7,
    "blocks": 2**7,
    "patch": 2**7,
    "groups": 2**13,
    "code_dim": 2**12,
    "latent_dim": 2**12,
    "frames": 2**12,
}
"""The largest valid value of every field: at least ten times that of the supported models."""

HIGHEST |= dict.fromkeys(("visual_offset", "visual_size", "codebook_size"), HIGHEST["vocab_size"])
HIGHEST |= dict.fromkeys((f"{name}_id" for name in SPECIAL), HIGHEST["vocab_size"])

Config = typing.TypeVar("Config", VQConfig, ModelConfig, HeadsConfig, BranchConfig)


def from_dict(kind: type[Config], values: object, where: str) -> Config:
    """Builds a config from parsed JSON; raises a `ConfigError` that names the invalid key."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object with the fields of {kind.__name__}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown field {shown(unknown[0])}; valid fields are {', '.join(fields)}.")
    out = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise ConfigError(f"{where}: field {name!r} is missing.")
            continue
        out[name] = _checked(values[name], field, f"{where}: field {name!r}")
    try:
        return kind(**out)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _checked(value: object, field: dataclasses.Field, where: str) -> object:
    if field.name == "qk_norm" and isinstance(value, bool):
        return "rms" if value else ""  # the bundled model's config.json has a boolean
    if field.type in (bool, str) and isinstance(value, field.type):
        return value
    if field.type is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value <= HIGHEST[field.name]:  # false for NaN, too
            raise ConfigError(f"{where} must be a positive number, at most {HIGHEST[field.name]}, not {shown(value)}.")
        if np.float32(value) == 0:
            raise ConfigError(f"{where} must be a positive number in float32, not {value}.")
        return float(value)
    if field.type is int and isinstance(value, int) and not isinstance(value, bool):
        if value < _LOWEST.get(field.name, 1):
            raise ConfigError(f"{where} must be positive, not {shown(value)}.")
        if value > HIGHEST[field.name]:
            raise ConfigError(f"{where} must be at most {HIGHEST[field.name]}, not {shown(value)}.")
        return value
    if field.name == "multipliers" and isinstance(value, list | tuple) and value:
        if len(value) > LEVELS:
            raise ConfigError(f"{where} must have at most {LEVELS} levels, not {len(value)}.")
        if all(type(v) is int and 0 < v <= HIGHEST["multipliers"] for v in value):
            return tuple(value)
    raise ConfigError(f"{where} has the wrong type: {shown(value)}.")


_LOWEST: dict[str, int] = dict.fromkeys(("visual_offset", "top_k", "code_width", "head_width"), 0)
_LOWEST |= dict.fromkeys(("horizontal", "vertical", "context"), 0)
_LOWEST |= dict.fromkeys((f"{name}_id" for name in SPECIAL), UNKNOWN)


def read_json(path: Path) -> dict:
    """Parses a JSON object; raises `ConfigError` with the path when it is absent or malformed."""
    require_file(path, error=ConfigError)
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:  # of ValueError: no UTF-8, no JSON, a number of thousands of digits
        raise ConfigError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    return values
