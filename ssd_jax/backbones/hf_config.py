"""Reads the config.json of a published backbone.

Each is read in the layout of its original repository and in that of transformers. A missing key has the default of the
published class; a key that describes another network than ours is an error.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.base import Published
from ssd_jax.errors import is_whole, shown
from ssd_jax.models.config import NONE, SPECIAL, UNKNOWN, ConfigError, ModelConfig
from ssd_jax.models.config_json import from_dict

SIZES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
}
"""Published key -> our field."""

ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "swin_norm": False,
    "tie_word_embeddings": False,
}
"""Keys of which only one value is implemented, the default of a missing key."""


def find_published(values: Mapping, where: str) -> Published:
    """The published model of a config.json; raises `ConfigError` if the table has none."""
    listed = values.get("architectures") or ()
    names = [values.get("model_type"), *(listed if isinstance(listed, list) else ())]
    for name in names:
        for published in PUBLISHED.values():
            if name in published.config_json.kinds and published.config_json.claims(values):
                return published
    known = ", ".join(sorted(PUBLISHED))
    raise ConfigError(
        f"{where}: {shown(names[0])} is not a model that can be loaded; known are {known} and our own format."
    )


def from_hf(
    values: Mapping,
    vocabulary: Mapping[str, int] | None = None,
    tokens: Mapping[str, int] | None = None,
    where: str = "config.json",
) -> ModelConfig:
    """Reads a published config.json.

    Args:
        values: the parsed file.
        vocabulary: token -> id of the tokenizer; config.json's own `vocabulary_map` takes precedence.
        tokens: special ids that override the file's: {"boi": 100016} or {"boi_id": 100016}.
        where: name of the file in error messages.
    Raises:
        ConfigError: an unknown model, a network that is not implemented, a malformed value.
    """
    published = find_published(values, where)
    text = next((values[name] for name in published.config_json.sections if name in values), values)
    if not isinstance(text, Mapping):
        raise ConfigError(f"{where}: the language model's section must be an object.")
    own = values.get("vocabulary_map") or {}
    if not isinstance(own, Mapping):
        raise ConfigError(f"{where}: vocabulary_map must be an object.")
    vocabulary = {**(vocabulary or {}), **own}
    fields = dataclasses.asdict(published.model)
    try:
        fields |= _sizes(text, published)
        codes = published.config_json.codes(values, vocabulary)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        raise ConfigError(f"{where}: a number or a section has the wrong type.") from None
    for key in SPECIAL:
        if key in published.tokens:
            token, field = published.tokens[key], f"{key}_id"
            given = vocabulary.get(token.name, text.get(token.key, values.get(token.key)))
            if given is not None:
                fields[field] = given
            elif fields[field] >= fields["vocab_size"]:
                fields[field] = UNKNOWN
    return with_tokens(from_dict(ModelConfig, fields | codes, where), tokens, where)


def with_tokens(config: ModelConfig, tokens: Mapping[str, int] | None, where: str) -> ModelConfig:
    """The config with special ids replaced: {"boi": 100016} or {"boi_id": 100016}; prompts handle ids of their own."""
    keys = dict.fromkeys(key for published in PUBLISHED.values() for key in published.tokens)
    in_prompts = [key for key in keys if key not in SPECIAL]
    numbered = [key for published in PUBLISHED.values() for key in published.numbered]
    for name, value in (tokens or {}).items():
        key = name.removesuffix("_id")
        counted = any(re.fullmatch(rf"{family}_\d+", key) for family in numbered)
        if key not in (*SPECIAL, *in_prompts) and not counted:
            known = ", ".join([*SPECIAL, *in_prompts, *(f"{family}_N" for family in numbered)])
            raise ConfigError(f"{where}: unknown special token {shown(name)}; known are {known}.")
        if not is_whole(value, NONE):
            raise ConfigError(
                f"{where}: the id of the special token {name!r} must be a whole number, not {shown(value)}."
            )
    given = {name.removesuffix("_id"): value for name, value in (tokens or {}).items()}
    try:
        return dataclasses.replace(config, **{f"{key}_id": value for key, value in given.items() if key in SPECIAL})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _sizes(text: Mapping, published: Published) -> dict[str, Any]:
    """The transformer's sizes."""
    given = dict(text)
    for rope in (text.get("rope_scaling") or {}, text.get("rope_parameters") or {}):  # the older key and the newer one
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ConfigError(f"rope_type must be 'default', not {shown(kind)}.")
        given |= {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    for key, value in ONLY.items():
        if text.get(key, value) not in (value, None) and key not in published.config_json.unused:
            raise ConfigError(f"{key} must be {value!r}, not {shown(text[key])}.")
    missing = dataclasses.asdict(published.model) | {"head_dim": None} | dict(published.config_json.missing)
    sizes = {ours: given.get(key, missing[ours]) for key, ours in SIZES.items()}
    if sizes["kv_heads"] is None:
        sizes["kv_heads"] = sizes["heads"]
    if sizes["head_dim"] is None:
        sizes["head_dim"] = sizes["width"] // sizes["heads"]
    return sizes
