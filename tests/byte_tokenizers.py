"""Tokenizers for which every byte is a token."""

from tokenizers import Tokenizer, models, pre_tokenizers

BYTES = 20_000  # id of the first byte token
ALPHABET = {letter: BYTES + index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def byte_tokenizer(special: dict[str, int], merges=(), first: int = BYTES) -> Tokenizer:
    """Byte-level, cutting text as GPT-2 does; the bytes' ids start at `first`."""
    alphabet = {letter: index - BYTES + first for letter, index in ALPHABET.items()}
    merged = {"".join(pair): BYTES + 300 + index for index, pair in enumerate(merges)}
    made = Tokenizer(models.BPE(vocab={**alphabet, **merged, **special}, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(list(special))
    return made
