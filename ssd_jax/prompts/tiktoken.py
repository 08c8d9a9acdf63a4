"""Reads a tokenizer in tiktoken's file format and converts it to `tokenizers`.

Each line is a token, in base64, and its rank, which is its id. In every piece of text tiktoken merges the two
neighbours whose union has the lowest rank, until no union is a token; a piece that is a token is kept. `tokenizers`
merges pairs in the order of a list instead. The results agree for the list of all ways to split a token in two, in the
order of the tokens' ranks.
Source: github.com/openai/tiktoken, `_educational.py`.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models

from ssd_jax.errors import UserError

_PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_LETTERS = {byte: chr(byte) for byte in _PLAIN}
_LETTERS |= {byte: chr(0x100 + index) for index, byte in enumerate(sorted(set(range(0x100)) - set(_PLAIN)))}
"""Byte -> the character that stands for it in byte-level tokenizers (GPT-2)."""


def tiktoken_tokenizer(path: Path, special: Sequence[str]) -> Tokenizer:
    """Reads a token file; the caller sets how text is split into pieces.

    Args:
        path: the file.
        special: names of the special tokens, whose ids follow the last rank.
    Raises:
        UserError: the file is missing or malformed.
    """
    ranks = _read_ranks(path)
    vocabulary = {_spell(token): rank for token, rank in ranks.items()}
    vocabulary |= {name: len(ranks) + index for index, name in enumerate(special)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(ranks), ignore_merges=True))
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank, by rank; the ranks are 0, 1, ..., and every byte is a token."""
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (OSError, ValueError):  # binascii's error is one
        raise UserError(f"{path} is not a tiktoken file: lines of a token in base64 and its rank.") from None
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    if list(ranks.values()) != list(range(len(pairs))) or not all(bytes([byte]) in ranks for byte in range(0x100)):
        raise UserError(f"{path} must have the ranks 0, 1, ... once each, and every byte as a token.")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    merges = []
    for token in ranks:
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        splits = [split for split in splits if split[0] in ranks and split[1] in ranks]
        merges += sorted(splits, key=lambda split: (ranks[split[0]], ranks[split[1]]))
    return [(_spell(first), _spell(second)) for first, second in merges]


def _spell(token: bytes) -> str:
    return "".join(map(_LETTERS.__getitem__, token))
