"""Prompt parts shared by all backbones: tokenizers (the `tokenizers` library), padding, and parsing of image sizes.

Each backbone's own prompt format is in its file in `ssd_jax.backbones`.
"""

from pathlib import Path

from tokenizers import Tokenizer

from ssd_jax.errors import UserError
from ssd_jax.prompts.padding import pad_left
from ssd_jax.prompts.words import SPECIALS, word_tokenizer

__all__ = ["SPECIALS", "TOKENIZER_NAME", "pad_left", "read_tokenizer", "word_tokenizer"]

TOKENIZER_NAME = "tokenizer.json"


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads tokenizer.json of a checkpoint folder; raises `UserError` if it is missing or malformed."""
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise UserError(f"{folder} has no {TOKENIZER_NAME}, so prompts cannot be read.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise UserError(f"{path} is not a tokenizer file: {error}.") from None
    tokenizer.no_truncation()  # the file may have the truncation and padding of a training
    tokenizer.no_padding()
    return tokenizer
