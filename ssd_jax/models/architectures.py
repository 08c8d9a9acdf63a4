"""The published backbones: what is known of each family before its config.json is read."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ssd_jax.models.config import ConfigError

LLAMA = {
    "vocab_size": 32000, "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}  # fmt: skip
"""transformers' defaults of a Llama."""


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


def find_architecture(values: Mapping, where: str) -> Architecture:
    """The architecture that a config.json names; raises `ConfigError` if it is none of ours."""
    names = [values.get("model_type"), *(values.get("architectures") or ())]
    for name in names:
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    known = ", ".join(sorted({architecture.family for architecture in ARCHITECTURES.values()}))
    raise ConfigError(f"{where}: {names[0]!r} is not a model that can be loaded; known are {known} and our own format.")


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
