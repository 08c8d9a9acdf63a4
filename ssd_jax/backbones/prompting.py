"""Builds the prompts of a checkpoint folder, and the token grid of an image size."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ssd_jax.backbones import backbone_of
from ssd_jax.backbones.base import Prompts, TokenizerFiles
from ssd_jax.errors import UserError, shown
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.config_json import HIGHEST, read_json
from ssd_jax.prompts import TOKENIZER_NAME, read_tokenizer
from ssd_jax.sequence.layout import Grid


def grid_of(config: ModelConfig, size: tuple[int, int] | str | None, stride: int) -> Grid:
    """The token grid of an image size, (height, width) or text; None is the backbone's own. Raises `UserError` for
    sizes that the backbone does not support; `stride` is pixels per token."""
    if size is None:
        return Grid(config.rows, config.cols)
    grid = backbone_of(config).prompts.grid(config, size, stride)
    if max(grid.rows, grid.cols) > HIGHEST["rows"]:
        raise UserError(
            f"An image has at most {HIGHEST['rows'] * stride} pixels a side, not {grid.rows * stride} x "
            f"{grid.cols * stride}."
        )
    return grid


def read_prompts(folder: Path, config: ModelConfig, tokens: Mapping[str, int] | None = None) -> Prompts:
    """The prompts of a checkpoint folder; `tokens` gives ids of special tokens that its files do not have. Raises
    `UserError` for files that are missing or malformed."""
    backbone = backbone_of(config)
    if backbone.published is None:
        return backbone.prompts(read_tokenizer(folder), config)
    tokenizer = _published_tokenizer(folder, backbone.published.tokenizer)
    vocabulary = read_json(folder / "config.json").get("vocabulary_map")
    return backbone.prompts(tokenizer, config, vocabulary if isinstance(vocabulary, dict) else {}, tokens or {})


def _published_tokenizer(folder: Path, own: TokenizerFiles | None) -> Tokenizer:
    """Reads tokenizer.json, which takes precedence, or the model's own files."""
    if own is None or (folder / TOKENIZER_NAME).is_file():
        return read_tokenizer(folder)
    if not (folder / own.names[0]).is_file():
        raise UserError(f"{folder} has neither {TOKENIZER_NAME} nor {own.names[0]}, so prompts cannot be read.")
    return own.read(folder)


def doubts(prompts: Prompts, texts: Sequence[str]) -> list[str]:
    """A sentence for every text without words, and for every word outside the vocabulary, which is replaced by the
    unknown word."""
    said = [
        f"the model can read no word of {shown(text)} and draws without a prompt"
        for text in texts
        if text.strip() and not prompts.words(text)
    ]
    unknown = dict.fromkeys(word for text in texts for word in prompts.unknown(text))
    return said + [f"the model does not know the word {shown(word)}" for word in unknown]
