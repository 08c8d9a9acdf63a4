"""What the models of the Emu family share: special tokens, how text is split, sizes, the tokenizer's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ssd_jax.backbones.base import Token, TokenizerFiles
from ssd_jax.errors import UserError
from ssd_jax.files import read_text, require_file
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts.byte_level import ByteLevelPrompts
from ssd_jax.prompts.sizes import is_ratio, parse_size
from ssd_jax.prompts.tiktoken import tiktoken_tokenizer
from ssd_jax.sequence.layout import Grid

TOKENS = {
    "pad": Token("<|endoftext|>", "pad_token_id"),
    "bos": Token("<|extra_203|>", "bos_token_id"),
    "boi": Token("<|image start|>", "boi_token_id"),
    "row_end": Token("<|extra_200|>", "eol_token_id"),
    "img": Token("<|image token|>"),
}

MAX_ASPECT = 10
"""No limit is published; this one keeps an image within the 9216 positions of the model's training."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the original tokenizer splits text (`PAT_STR` of its tokenization_emu3.py): every digit is a separate piece."""


class EmuPrompts(ByteLevelPrompts):
    """Encodes text as the models were trained on it, and makes grids of sizes.

    Attributes:
        TITLE: the model's name in messages.
        SLACK: how many times the model's own area an image may have.
    """

    TITLE: ClassVar[str]
    SLACK: ClassVar[float] = 1.0

    def __init__(
        self, tokenizer: Tokenizer, config: ModelConfig, vocabulary: Mapping[str, int], tokens: Mapping[str, int]
    ):
        super().__init__(tokenizer, config, vocabulary, tokens)
        # The tokenizer.json of converted checkpoints splits as GPT-2 does; the model was trained with this split.
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def opening(self, grid: Grid) -> list[int]:
        """`BOI "ROWS*COLS" IMG`, the start of an image."""
        return [self.id("boi"), *self.text(f"{grid.rows}*{grid.cols}"), self.id("img")]

    @classmethod
    def grid(cls, config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The grid of an aspect ratio at the model's own area, or of a size in pixels with half to all of that area."""
        height, width = parse_size(size)
        area = config.rows * config.cols * stride**2
        if max(height, width) > MAX_ASPECT * min(height, width):
            pass
        elif is_ratio(size):
            return cls.of_ratio(height, width, area, stride)
        elif not height % stride and not width % stride and area / 2 <= height * width <= cls.SLACK * area:
            return Grid(height // stride, width // stride)
        raise UserError(
            f"{cls.TITLE} draws images of an aspect ratio such as 16:9 (at most {MAX_ASPECT}:1), or of HEIGHTxWIDTH in "
            f"multiples of {stride} pixels with an area of {area // 2} to {int(cls.SLACK * area)} pixels, not {size}."
        )

    @staticmethod
    def of_ratio(height: int, width: int, area: int, stride: int) -> Grid:
        """The grid of an aspect ratio at an area in pixels, rounded as the model's own code does."""
        raise NotImplementedError


RANKS_NAME, SPECIAL_NAME = "emu3.tiktoken", "emu3_vision_tokens.txt"

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205)))
"""The special tokens before those of the file; the first has the id after the last rank."""


def read_tiktoken(folder: Path) -> Tokenizer:
    """Reads the original tokenizer: emu3.tiktoken, and emu3_vision_tokens.txt with names of special tokens
    (`tokenization_emu3.py`); `EmuPrompts` sets how text is split into pieces.

    Raises:
        UserError: a file is missing or malformed.
    """
    name = f"{folder / SPECIAL_NAME}, which belongs to {RANKS_NAME},"
    require_file(folder / SPECIAL_NAME, name)
    lines = read_text(folder / SPECIAL_NAME, name).split("\n")
    return tiktoken_tokenizer(folder / RANKS_NAME, [*SPECIAL, *(line.strip() for line in lines if line.strip())])


TOKENIZER = TokenizerFiles((RANKS_NAME, SPECIAL_NAME), read_tiktoken)
