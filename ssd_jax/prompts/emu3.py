"""Emu3-Gen's prompts and sizes (baaivision/Emu3, `processing_emu3.py` and `image_generation.py`).

BOS text BOI "ROWS*COLS" IMG | (COLS codes, row end) x ROWS
"""

from collections.abc import Mapping
from typing import ClassVar

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts.published import Published
from ssd_jax.prompts.sizes import is_ratio, parse_size

POSITIVE = " masterpiece, film grained, best quality."
"""Stands behind every prompt."""

NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
"""What guidance leads away from, unless the user says something else."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where the original tokenizer cuts text (`PAT_STR` of its tokenization_emu3.py): every digit is a piece of its own."""

MAX_ASPECT = 10
"""No limit is published; this one keeps a picture within the 9216 positions the model was trained on."""

SLACK = 1.02
"""How far above the model's own area, relatively, a picture may be: rounding to whole tokens goes over it by less."""


class Emu3Prompts(Published):
    """Frames of Emu3-Gen. The negative prompt has a whole frame of its own, without `POSITIVE`."""

    NAMES: ClassVar = {
        "bos": "<|extra_203|>",
        "boi": "<|image start|>",
        "img": "<|image token|>",
    }

    def __init__(
        self, tokenizer: Tokenizer, config: ModelConfig, vocabulary: Mapping[str, int], tokens: Mapping[str, int]
    ):
        super().__init__(tokenizer, config, vocabulary, tokens)
        # Converted checkpoints have a tokenizer.json that cuts as GPT-2 does; the model was trained on these cuts.
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def frame(self, text: str, grid: Grid) -> list[int]:
        """`BOS text BOI "ROWS*COLS" IMG`."""
        return [
            self.id("bos"),
            *self.text(text),
            self.id("boi"),
            *self.text(f"{grid.rows}*{grid.cols}"),
            self.id("img"),
        ]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame, and the negative prompt's; None is `NEGATIVE`."""
        return self.frame(text + POSITIVE, grid), self.frame(NEGATIVE if negative is None else negative, grid)

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The grid of an aspect ratio at the model's own area, or of pixels with about that area down to half of it."""
        height, width = parse_size(size)
        area = config.rows * config.cols * stride**2
        if max(height, width) > MAX_ASPECT * min(height, width):
            pass
        elif is_ratio(size):
            side = (area / (height * width)) ** 0.5
            return Grid(round(height * side / stride), round(width * side / stride))  # half to even, as the original
        elif not height % stride and not width % stride and area / 2 <= height * width <= SLACK * area:
            return Grid(height // stride, width // stride)
        raise UserError(
            f"Emu3 draws pictures of an aspect ratio such as 16:9 (at most {MAX_ASPECT}:1), or of HEIGHTxWIDTH in "
            f"multiples of {stride} pixels with an area of {area // 2} to {int(SLACK * area)} pixels, not {size}."
        )
