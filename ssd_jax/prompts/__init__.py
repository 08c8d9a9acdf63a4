"""From a prompt to the ids the backbone was trained on, and from a size to a token grid; one file per backbone.

Text goes through the `tokenizers` library; tokenizer.json or, of Emu3, emu3.tiktoken lies beside the weights. All
classes have

    pair(text, negative, grid) -> ids of the prompt's frame, ids of the frame that guidance leads away from
    grid(config, size, stride) -> the token grid of a picture size that the backbone allows; static
    words(text), unknown(text) -> what it reads of a text, and what of that it never saw
"""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig, read_json
from ssd_jax.prompts.emu3 import Emu3Prompts
from ssd_jax.prompts.janus import JanusPrompts
from ssd_jax.prompts.lumina import LuminaPrompts
from ssd_jax.prompts.padding import pad_left
from ssd_jax.prompts.tiktoken import RANKS_NAME, read_tiktoken
from ssd_jax.prompts.words import MAX_WORDS, SPECIALS, Prompts, word_tokenizer

__all__ = [
    "MAX_WORDS",
    "SPECIALS",
    "PUBLISHED",
    "Prompts",
    "grid_of",
    "pad_left",
    "read_prompts",
    "read_tokenizer",
    "word_tokenizer",
]

PUBLISHED = {"emu3": Emu3Prompts, "chameleon": LuminaPrompts, "janus": JanusPrompts}
"""Prompts of the published backbones, by `ModelConfig.architecture`."""


def grid_of(config: ModelConfig, size: tuple[int, int] | str | None, stride: int) -> Grid:
    """The token grid of a picture size, (height, width) or text; None is the backbone's own. Raises `UserError` for
    sizes that the backbone does not draw; `stride` is pixels per token."""
    if size is None:
        return Grid(config.rows, config.cols)
    return PUBLISHED.get(config.architecture, Prompts).grid(config, size, stride)


def read_prompts(
    folder: Path, config: ModelConfig, tokens: Mapping[str, int] | None = None
) -> Prompts | Emu3Prompts | LuminaPrompts | JanusPrompts:
    """The prompts of a checkpoint folder; `tokens` gives ids of special tokens that its files do not name."""
    tokenizer = read_tokenizer(folder)
    if config.architecture not in PUBLISHED:
        return Prompts(tokenizer, config)
    vocabulary = read_json(folder / "config.json").get("vocabulary_map")
    return PUBLISHED[config.architecture](
        tokenizer, config, vocabulary if isinstance(vocabulary, dict) else {}, tokens or {}
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads tokenizer.json of a checkpoint folder, or, without one, Emu3's files of its first repository."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        if not (folder / RANKS_NAME).is_file():
            raise UserError(f"{folder} has neither tokenizer.json nor {RANKS_NAME}, so prompts cannot be read.")
        return read_tiktoken(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise UserError(f"{path} is not a tokenizer file: {error}.") from None
    tokenizer.no_truncation()  # files may say how the texts of a training were cut and filled
    tokenizer.no_padding()
    return tokenizer
