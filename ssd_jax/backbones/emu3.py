"""Emu3-Gen by BAAI (arXiv 2409.18869; github.com/baaivision/Emu3), 8.5 billion parameters.

    BOS text BOI "ROWS*COLS" IMG | (COLS codes, row end) x ROWS

Prompts and sizes follow its `processing_emu3.py` and `image_generation.py`.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedVQ
from ssd_jax.backbones.emu_text import TOKENIZER, TOKENS, EmuPrompts
from ssd_jax.backbones.fields import code_range, section, whole_numbers
from ssd_jax.models.config import NONE, ModelConfig
from ssd_jax.models.vq_config import MoVQConfig
from ssd_jax.sequence.layout import Grid

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

VQ = MoVQConfig(
    channels=256,
    multipliers=(1, 2, 2, 4),
    blocks=2,
    attention_levels=(3,),
    codebook_size=MODEL.visual_size,
    code_dim=4,
    frames=4,
)
"""Emu3-VisionTokenizer, a video tokenizer."""


def _codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    side = round(math.sqrt(values.get("image_area", (MODEL.rows * VQ.stride) ** 2)) / VQ.stride)
    size = section(values, "vq_config").get("codebook_size", values.get("codebook_size", MODEL.visual_size))
    found = code_range(vocabulary, lambda code: f"<|visual token {code:06d}|>", MODEL.visual_offset, size)
    return {"rows": side, "cols": side, **found}


def _attention_levels(values: Mapping, levels: int) -> tuple[int, ...]:
    """Reads the levels, which are listed as such; the class of `VQ` checks them."""
    del levels
    return whole_numbers(values.get("attn_resolutions", VQ.attention_levels) or (), "attn_resolutions")


# Tensor names of both original repositories, and of the converted ones (-hf).
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

POSITIVE = " masterpiece, film grained, best quality."
"""Appended to every prompt."""

NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
"""The default negative prompt."""


class Emu3Prompts(EmuPrompts):
    """Frames of Emu3-Gen. The negative prompt has a full frame of its own, without `POSITIVE`."""

    NAMES: ClassVar = {key: token.name for key, token in TOKENS.items()}
    TITLE: ClassVar = "Emu3"
    SLACK: ClassVar = 1.02  # rounding to whole tokens exceeds the model's own area by less

    def frame(self, text: str, grid: Grid) -> list[int]:
        """`BOS text BOI "ROWS*COLS" IMG`."""
        return [self.id("bos"), *self.text(text), *self.opening(grid)]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The frames of the prompt and of the negative prompt; None is `NEGATIVE`."""
        return self.frame(text + POSITIVE, grid), self.frame(NEGATIVE if negative is None else negative, grid)

    @staticmethod
    def of_ratio(height: int, width: int, area: int, stride: int) -> Grid:
        """Rounded half to even."""
        side = (area / (height * width)) ** 0.5
        return Grid(round(height * side / stride), round(width * side / stride))


BACKBONE = Backbone(
    "emu3",
    Emu3Prompts,
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
        tokenizer=TOKENIZER,
    ),
)
