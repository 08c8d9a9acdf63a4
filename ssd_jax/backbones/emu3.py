"""Emu3-Gen by BAAI (arXiv 2409.18869; github.com/baaivision/Emu3), 8.5 billion parameters."""

import math
from collections.abc import Mapping
from typing import Any

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedVQ, Token
from ssd_jax.backbones.fields import code_range, section, whole_numbers
from ssd_jax.models.config import NONE, ModelConfig
from ssd_jax.models.vq_config import MoVQConfig

MODEL = ModelConfig(
    architecture="emu3",
    vocab_size=184622,
    visual_offset=151854,
    visual_size=32768,
    layers=32,
    width=4096,
    mlp_width=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    norm_eps=1e-5,
    qk_norm="",
    rows=90,
    cols=90,
    pad_id=151643,
    unk_id=NONE,
    bos_id=151849,
    boi_id=151852,
    row_end_id=151846,
    cfg_scale=3.0,
    top_k=2048,
)

TOKENS = {
    "pad": Token("<|endoftext|>", "pad_token_id"),
    "bos": Token("<|extra_203|>", "bos_token_id"),
    "boi": Token("<|image start|>", "boi_token_id"),
    "row_end": Token("<|extra_200|>", "eol_token_id"),
    "img": Token("<|image token|>"),
}

VQ = MoVQConfig(
    channels=256,
    multipliers=(1, 2, 2, 4),
    blocks=2,
    attention_levels=(3,),
    codebook_size=MODEL.visual_size,
    code_dim=4,
    frames=4,
)
"""Emu3-VisionTokenizer, made for video."""


def _codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    side = round(math.sqrt(values.get("image_area", (MODEL.rows * VQ.stride) ** 2)) / VQ.stride)
    size = section(values, "vq_config").get("codebook_size", values.get("codebook_size", MODEL.visual_size))
    found = code_range(vocabulary, lambda code: f"<|visual token {code:06d}|>", MODEL.visual_offset, size)
    return {"rows": side, "cols": side, **found}


def _attention_levels(values: Mapping, levels: int) -> tuple[int, ...]:
    """They are listed as they are, and checked by `VQ`'s class."""
    del levels
    return whole_numbers(values.get("attn_resolutions", VQ.attention_levels) or (), "attn_resolutions")


# Both repositories' names, and those of the converted ones (-hf).
VQ_RULES = (
    (r"^(encoder|decoder)\.middle_block\.", r"\1.mid."),
    (r"\.(down|up)_block\.", "."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.attn_norm\.", ".attn_1.norm."),
    (r"\.([qkv])_proj\.", r".\1."),
    (r"\.out_proj\.", ".proj_out."),
    (r"\.norm_layer\.", ".norm."),
    (r"^(encoder|decoder)\.time_conv\.(\d+)\.", r"\1_time.conv_\2."),
    (r"^(encoder|decoder)\.time_res_stack\.(\d+)\.", r"\1_time.block_\2."),
)

BACKBONE = Backbone(
    "emu3",
    Published(
        model=MODEL,
        config_json=ConfigJson(
            kinds=("Emu3", "emu3", "emu3_text_model", "Emu3ForCausalLM", "Emu3ForConditionalGeneration"),
            codes=_codes,
            sections=("text_config",),
        ),
        tokens=TOKENS,
        vq=PublishedVQ(
            VQ,
            _attention_levels,
            keys={"codebook_size": "codebook_size", "temporal_downsample_factor": "frames"},
            rules=VQ_RULES,
        ),
        namings=(
            Naming("text_model.model.", {"visual_head": "text_model.lm_head.weight"}),
            Naming("model.text_model.", {"visual_head": "lm_head.weight"}),
            Naming("model.", {"visual_head": "lm_head.weight"}),
        ),
    ),
)
