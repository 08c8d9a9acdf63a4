"""The published backbones: what their own config.json files say.

Each is read in the layout of its first repository and in that of transformers. A key that is left out has the value of
the published class; a key that describes another network than ours is refused.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ssd_jax.errors import is_whole
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

LLAMA = {
    "vocab_size": 32000, "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}  # fmt: skip
"""transformers' defaults of a Llama."""

ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "swin_norm": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
"""Keys of which we have implemented one value, the one that a missing key means."""


@dataclasses.dataclass(frozen=True)
class Special:
    """How a special id is found: a name in the vocabulary, a key of config.json, the published id."""

    name: str
    key: str
    default: int


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What is known of a family of backbones beforehand.

    Attributes:
        family: `ModelConfig.architecture`.
        sections: the sections of config.json that may hold the language model; without any, it is the top level.
        defaults: what a missing size means.
        special: field -> how its id is found.
        fixed: fields that no config.json gives.
        visual: (config.json, vocabulary) -> fields that describe the visual codes.
    """

    family: str
    sections: tuple[str, ...]
    defaults: Mapping[str, Any]
    special: Mapping[str, Special]
    fixed: Mapping[str, Any]
    visual: Callable[[Mapping, Mapping[str, int]], dict[str, Any]]


def _emu3_codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    ids = _ids(vocabulary, lambda code: f"<|visual token {code:06d}|>")
    side = round(math.sqrt(values.get("image_area", 720 * 720)) / 8)
    size = _section(values, "vq_config").get("codebook_size", values.get("codebook_size", 32768))
    return {"rows": side, "cols": side, **_range(ids, 151854, size)}


def _chameleon_codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    digits = str.maketrans("0123456789", "ABCDEFGHIJ")
    ids = _ids(vocabulary, lambda code: f"IMGIMG{str(code).translate(digits)}Z")
    return _range(ids, 4, _section(values, "vq_config").get("num_embeddings", 8192))


def _janus_codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    del vocabulary
    if "language_config" in values:
        sections = ("gen_vision_config", "gen_aligner_config", "gen_head_config")
        vision, aligner, head = (_section(_section(values, name), "params") for name in sections)
        found = {"visual_size": vision.get("image_token_size", 16384), "code_width": vision.get("n_embed", 8)}
        found["head_width"] = head.get("image_token_embed", 2048)
        depth, act = aligner.get("depth", 2), aligner.get("projector_type", "mlp_gelu")
    else:
        vq, vision = _section(values, "vq_config"), _section(values, "vision_config")
        found = {"visual_size": vq.get("num_embeddings", 16384), "code_width": vq.get("embed_dim", 8)}
        found["head_width"] = vq.get("projection_dim", 2048)
        depth, act = vq.get("num_hidden_layers", 2), vq.get("hidden_act", "gelu")
        side = vision.get("image_size", 384) // vision.get("patch_size", 16)
        found |= {"rows": side, "cols": side}
    if depth != 2 or act not in ("gelu", "mlp_gelu"):
        raise ConfigError(f"the visual codes' mlp must have 2 layers with GELU, not {depth} with {act}.")
    return found


EMU3 = Architecture(
    family="emu3",
    sections=("text_config",),
    defaults=LLAMA
    | {
        "vocab_size": 184622,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
    },
    special={
        "pad_id": Special("<|endoftext|>", "pad_token_id", 151643),
        "bos_id": Special("<|extra_203|>", "bos_token_id", 151849),
        "boi_id": Special("<|image start|>", "boi_token_id", 151852),
        "row_end_id": Special("<|extra_200|>", "eol_token_id", 151846),
    },
    fixed={"qk_norm": "", "cfg_scale": 3.0, "top_k": 2048},
    visual=_emu3_codes,
)

CHAMELEON = Architecture(
    family="chameleon",
    sections=(),
    defaults=LLAMA | {"vocab_size": 65536, "rms_norm_eps": 1e-5},
    special={
        "pad_id": Special("<pad>", "pad_token_id", 1),
        "unk_id": Special("<unk>", "unk_token_id", 3),
        "bos_id": Special("<s>", "bos_token_id", 0),
        "boi_id": Special("<racm3:break>", "boi_token_id", 8197),
        "row_end_id": Special("<reserved08799>", "eol_token_id", 8803),
    },
    fixed={"qk_norm": "layer", "rows": 48, "cols": 48, "cfg_scale": 3.0, "top_k": 2000},
    visual=_chameleon_codes,
)

JANUS = Architecture(
    family="janus",
    sections=("text_config", "language_config"),
    defaults=LLAMA,
    special={
        "pad_id": Special("<｜▁pad▁｜>", "pad_token_id", 100002),
        "bos_id": Special("<｜begin▁of▁sentence｜>", "bos_token_id", 100000),
        "boi_id": Special("<begin_of_image>", "boi_token_id", 100016),
    },
    fixed={"qk_norm": "", "rows": 24, "cols": 24, "cfg_scale": 5.0, "top_k": 0, "visual_offset": 0},
    visual=_janus_codes,
)

ARCHITECTURES = {
    "Emu3": EMU3,
    "emu3": EMU3,
    "emu3_text_model": EMU3,
    "chameleon": CHAMELEON,
    "chameleon_xllmx": CHAMELEON,
    "janus": JANUS,
    "multi_modality": JANUS,
    "Emu3ForCausalLM": EMU3,
    "Emu3ForConditionalGeneration": EMU3,
    "ChameleonForConditionalGeneration": CHAMELEON,
    "ChameleonXLLMXForConditionalGeneration": CHAMELEON,
    "JanusForConditionalGeneration": JANUS,
    "MultiModalityCausalLM": JANUS,
}
"""What config.json says under `model_type`, or in `architectures` -> what it is."""


IN_PROMPTS = re.compile(r"(img|end|size_\d+)(_id)?")
"""Special tokens that only prompts need: Emu3's image token, Lumina-mGPT's end of turn and number of patches."""


def find_architecture(values: Mapping, where: str) -> Architecture:
    """The architecture that a config.json names; raises `ConfigError` if it is none of ours."""
    names = [values.get("model_type"), *(values.get("architectures") or ())]
    for name in names:
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    known = ", ".join(sorted({architecture.family for architecture in ARCHITECTURES.values()}))
    raise ConfigError(f"{where}: {names[0]!r} is not a model that can be loaded; known are {known} and our own format.")


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
    rope = text.get("rope_parameters") or {}
    given = {**text, **({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rope_type must be 'default', not {rope['rope_type']!r}.")
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


def _ids(vocabulary: Mapping[str, int], name: Callable[[int], str]) -> list[int]:
    """Ids of the visual codes 0, 1, ... as far as the vocabulary names them; empty if it names none."""
    ids = []
    while (token := name(len(ids))) in vocabulary:
        ids.append(vocabulary[token])
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        raise ConfigError("the ids of the visual codes must follow each other in the order of the codes.")
    return ids


def _range(ids: list[int], offset: int, size: int) -> dict[str, int]:
    return {"visual_offset": ids[0] if ids else offset, "visual_size": len(ids) or size}


def _section(values: Mapping, name: str) -> Mapping:
    """A section of a config; empty if it is absent."""
    return values.get(name) or {}
