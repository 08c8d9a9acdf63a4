"""Lumina-mGPT 7B 768 by Alpha-VLLM (arXiv 2408.02657; github.com/Alpha-VLLM/Lumina-mGPT), 7.0 billion parameters.

It is a fine-tuned Chameleon by Meta (arXiv 2405.09818): config.json and tensor names are Chameleon's, and so is the
image tokenizer, Meta's `vqgan.ckpt`. `ModelConfig.architecture` has that name.

    BOS "Generate an image of WIDTHxHEIGHT ..." END | BOI height width (COLS codes, row end) x ROWS

Prompts and sizes follow its `inference_solver.py`. The model would sample BOI and the two size tokens itself; for a
given size they are part of the prompt. It is published without negative prompts. Giving them a full frame is our
choice, after Emu3's example; how well they work on this model is not known.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedVQ, Token
from ssd_jax.backbones.fields import code_range, levels_of_resolutions, section
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.vq_config import VQGANConfig
from ssd_jax.prompts.byte_level import ByteLevelPrompts
from ssd_jax.prompts.sizes import is_ratio, parse_size
from ssd_jax.sequence.layout import Grid

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
    "end": Token("<reserved08706>"),  # end of a turn
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


REQUEST = "Generate an image of {}x{} according to the following prompt:\n"

PATCH = 2
"""Tokens per side of a patch; sizes are integer numbers of patches, which the size tokens count."""

MAX_ASPECT = 4


class LuminaPrompts(ByteLevelPrompts):
    """Frames of Lumina-mGPT. The unconditional frame has only the tokens from BOI on."""

    NAMES: ClassVar = {key: token.name for key, token in TOKENS.items()}

    def frame(self, text: str, grid: Grid) -> list[int]:
        """`BOS request END BOI height width`."""
        request = REQUEST.format(grid.cols * VQ.stride, grid.rows * VQ.stride)
        return [self.id("bos"), *self.text(text, request + "{}"), self.id("end"), *self.opening(grid)]

    def opening(self, grid: Grid) -> list[int]:
        """`BOI height width`, the start of an image."""
        return [self.id("boi"), self._size(grid.rows // PATCH), self._size(grid.cols // PATCH)]

    def _size(self, patches: int) -> int:
        """Id of the token for a side of this many patches; 24 is `<reserved08824>`."""
        return self.id(f"size_{patches}", f"<reserved{8800 + patches:05d}>")

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame, and the negative prompt's or, without one, `BOI height width`."""
        return self.frame(text, grid), self.opening(grid) if negative is None else self.frame(negative, grid)

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The grid of a size in patches: at most the model's own area, and no side over four times the other."""
        height, width = parse_size(size)
        patch, most = PATCH * stride, config.rows * config.cols // PATCH**2
        fits = not is_ratio(size) and not height % patch and not width % patch
        if fits and height * width <= most * patch**2 and max(height, width) <= MAX_ASPECT * min(height, width):
            return Grid(height // stride, width // stride)
        raise UserError(
            f"Lumina-mGPT draws images of HEIGHTxWIDTH in multiples of {patch} pixels, with an area of at most "
            f"{most * patch**2} pixels and no side more than {MAX_ASPECT} times the other, not {size}."
        )


BACKBONE = Backbone(
    "chameleon",
    LuminaPrompts,
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
        vq=PublishedVQ(VQ, levels_of_resolutions(512, ()), keys={"num_embeddings": "codebook_size"}),
        namings=(Naming("model.", {"visual_head": "lm_head.weight"}),),
    ),
)
