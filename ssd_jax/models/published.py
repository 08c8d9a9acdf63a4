"""Reading the config.json of a published backbone.

Each is read in the layout of its first repository and in that of transformers. A key that is left out has the value of
the published class; a key that describes another network than ours is refused.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ssd_jax.errors import is_whole
from ssd_jax.models.architectures import JANUS, Architecture, find_architecture
from ssd_jax.models.config import NONE, UNKNOWN, ConfigError, ModelConfig, from_dict

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
"""Keys of which we have implemented one value, the one that a missing key means."""

IN_PROMPTS = re.compile(r"(img|end|size_\d+)(_id)?")
"""Special tokens that only prompts need: Emu3's image token, Lumina-mGPT's end of turn and number of patches."""


def from_hf(
    values: Mapping,
    vocabulary: Mapping[str, int] | None = None,
    tokens: Mapping[str, int] | None = None,
    where: str = "config.json",
) -> ModelConfig:
    """Reads a published config.json.

    Args:
        values: the parsed file.
        vocabulary: token -> id of the tokenizer; config.json's own `vocabulary_map` goes before it.
        tokens: special ids that are known better: {"boi": 100016} or {"boi_id": 100016}.
        where: the file, for error messages.
    Raises:
        ConfigError: another model, a network that is not implemented, a malformed value.
    """
    architecture = find_architecture(values, where)
    text = next((values[name] for name in architecture.sections if name in values), values)
    if not isinstance(text, Mapping):
        raise ConfigError(f"{where}: the language model's section must be an object.")
    vocabulary = {**(vocabulary or {}), **(values.get("vocabulary_map") or {})}
    try:
        fields = {**architecture.fixed, **_sizes(text, architecture), **architecture.visual(values, vocabulary)}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise ConfigError(f"{where}: a number or a section has the wrong type.") from None
    fields |= {"unk_id": NONE, "row_end_id": NONE, "architecture": architecture.family}
    for field, special in architecture.special.items():
        given = vocabulary.get(special.name, text.get(special.key, values.get(special.key)))
        fields[field] = special.default if given is None else given
        if given is None and special.default >= fields["vocab_size"]:
            fields[field] = UNKNOWN
    return with_tokens(from_dict(ModelConfig, fields, where), tokens, where)


def with_tokens(config: ModelConfig, tokens: Mapping[str, int] | None, where: str) -> ModelConfig:
    """The config with other special ids: {"boi": 100016} or {"boi_id": 100016}; those of prompts are left to them."""
    fields = {name.removesuffix("_id"): name for name in ("pad_id", "unk_id", "bos_id", "boi_id", "row_end_id")}
    for name, value in (tokens or {}).items():
        if name.removesuffix("_id") not in fields and not IN_PROMPTS.fullmatch(name):
            known = ", ".join([*fields, "img, end, size_N"])
            raise ConfigError(f"{where}: unknown special token {name!r}; known are {known}.")
        if not is_whole(value, NONE):
            raise ConfigError(f"{where}: the id of the special token {name!r} must be a whole number, not {value!r}.")
    given = {fields.get(name.removesuffix("_id")): value for name, value in (tokens or {}).items()}
    changes = {field: value for field, value in given.items() if field is not None}
    return dataclasses.replace(config, **changes)


def _sizes(text: Mapping, architecture: Architecture) -> dict[str, Any]:
    """The transformer's sizes."""
    given = dict(text)
    for rope in (text.get("rope_scaling") or {}, text.get("rope_parameters") or {}):  # the older key and the newer one
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ConfigError(f"rope_type must be 'default', not {kind!r}.")
        given |= {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    for key, value in ONLY.items():
        # Janus has no use for its text head, tied or not.
        if text.get(key, value) not in (value, None) and (key, architecture) != ("tie_word_embeddings", JANUS):
            raise ConfigError(f"{key} must be {value!r}, not {text[key]!r}.")
    sizes = {ours: given.get(key, architecture.defaults[key]) for key, ours in SIZES.items()}
    if sizes["kv_heads"] is None:
        sizes["kv_heads"] = sizes["heads"]
    if sizes["head_dim"] is None:
        sizes["head_dim"] = sizes["width"] // sizes["heads"]
    return sizes
