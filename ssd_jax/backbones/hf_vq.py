"""Reads the image tokenizer's section of a published config.json, in the layouts that `hf_config` reads."""

import dataclasses
from collections.abc import Mapping

from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.base import PublishedVQ
from ssd_jax.backbones.fields import whole_numbers
from ssd_jax.errors import shown
from ssd_jax.models.config import ConfigError
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig

FIELDS = {
    "base_channels": "channels",
    "channel_multiplier": "multipliers",
    "num_res_blocks": "blocks",
    "embed_dim": "code_dim",
    "latent_channels": "latent_dim",
}
"""Published key -> our field, for every model; each backbone adds its own."""

FIXED = {
    "double_latent": False,
    "in_channels": 3,
    "out_channels": 3,
    "attn_type": "vanilla",
    "num_attention_heads": 1,
}
"""Published keys with the same value in all checkpoints; another value would mean another network."""


def vq_from_hf(name: str, values: Mapping, where: str = "config.json") -> VQGANConfig | MoVQConfig:
    """Reads the image tokenizer's section of a published model's config.json; without one, the published one.

    Args:
        name: `ModelConfig.architecture` of a published model.
        values: the parsed file. Keys that do not describe the network are ignored.
        where: name of the file in error messages.
    Raises:
        ConfigError: a value is malformed or describes a network that is not implemented.
    """
    vq = PUBLISHED[name].vq
    for keys in vq.sections:
        section = values
        for key in keys:
            section = section.get(key) if isinstance(section, Mapping) else section
        if section is not None:
            try:
                return _from_section(vq, section)
            except ConfigError as error:
                raise ConfigError(f"{where}: {'.'.join(keys)}: {error}") from None
    return vq.config


def _from_section(vq: PublishedVQ, values: object) -> VQGANConfig | MoVQConfig:
    if not isinstance(values, Mapping):
        raise ConfigError("expected an object.")
    for key, wanted in FIXED.items():
        if values.get(key, wanted) != wanted:
            raise ConfigError(f"{key} must be {wanted!r}, not {shown(values[key])}.")
    base, fields = vq.config, {**FIELDS, **vq.keys}
    given = {ours: values[key] for key, ours in fields.items() if key in values}
    if "multipliers" in given:
        given["multipliers"] = whole_numbers(given["multipliers"], "multipliers")
    given["attention_levels"] = vq.attention_levels(values, len(given.get("multipliers", base.multipliers)))
    names = {field.name for field in dataclasses.fields(base)}
    if "latent_dim" not in names and given.pop("latent_dim", base.latent_dim) != given.get("code_dim", base.code_dim):
        raise ConfigError("the latents must be as wide as the code vectors.")
    return dataclasses.replace(base, **given)
