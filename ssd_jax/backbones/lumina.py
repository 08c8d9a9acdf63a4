"""Lumina-mGPT 7B 768 by Alpha-VLLM (arXiv 2408.02657; github.com/Alpha-VLLM/Lumina-mGPT), 7.0 billion parameters.

It is a Chameleon of Meta's (arXiv 2405.09818) that was trained further: config.json and tensor names are Chameleon's,
and so is the image tokenizer, Meta's `vqgan.ckpt`. `ModelConfig.architecture` has that name.
"""

from collections.abc import Mapping
from typing import Any

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedVQ, Token
from ssd_jax.backbones.fields import code_range, section, whole_numbers
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.vq_config import VQGANConfig

MODEL = ModelConfig(
    architecture="chameleon",
    vocab_size=65536,
    visual_offset=4,
    visual_size=8192,
    layers=32,
    width=4096,
    mlp_width=11008,
    heads=32,
    kv_heads=32,
    head_dim=128,
    rope_theta=1e4,
    norm_eps=1e-5,
    qk_norm="layer",
    rows=48,
    cols=48,
    pad_id=1,
    unk_id=3,
    bos_id=0,
    boi_id=8197,
    row_end_id=8803,
    cfg_scale=3.0,
    top_k=2000,
)

TOKENS = {
    "pad": Token("<pad>", "pad_token_id"),
    "unk": Token("<unk>", "unk_token_id"),
    "bos": Token("<s>", "bos_token_id"),
    "boi": Token("<racm3:break>", "boi_token_id"),
    "row_end": Token("<reserved08799>", "eol_token_id"),
    "end": Token("<reserved08706>"),  # of a turn
}

VQ = VQGANConfig(
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention_levels=(),
    codebook_size=MODEL.visual_size,
    code_dim=256,
    latent_dim=256,
)

_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def _codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    size = section(values, "vq_config").get("num_embeddings", MODEL.visual_size)
    return code_range(vocabulary, lambda code: f"IMGIMG{str(code).translate(_LETTERS)}Z", MODEL.visual_offset, size)


def _attention_levels(values: Mapping, levels: int) -> tuple[int, ...]:
    """They are listed as the sizes that a picture of `resolution` has in them."""
    listed = whole_numbers(values.get("attn_resolutions", ()) or (), "attn_resolutions")
    (resolution,) = whole_numbers([values.get("resolution", 512)], "resolution")
    return tuple(level for level in range(levels) if resolution // 2**level in listed)


BACKBONE = Backbone(
    "chameleon",
    Published(
        model=MODEL,
        config_json=ConfigJson(
            kinds=(
                "chameleon",
                "chameleon_xllmx",
                "ChameleonForConditionalGeneration",
                "ChameleonXLLMXForConditionalGeneration",
            ),
            codes=_codes,
            missing={"kv_heads": None},
        ),
        tokens=TOKENS,
        numbered=("size",),
        vq=PublishedVQ(VQ, _attention_levels, keys={"num_embeddings": "codebook_size"}),
        namings=(Naming("model.", {"visual_head": "lm_head.weight"}),),
    ),
)
