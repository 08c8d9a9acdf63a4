"""From a prompt to the ids the backbone was trained on.

The bundled model's frame is `BOS words BOI`; its unconditional frame is `BOS BOI`. Text goes through the `tokenizers`
library, whose tokenizer.json lies beside the weights.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.shapes import bucket

SPECIALS = ("<pad>", "<unk>", "<bos>", "<boi>")
"""Special tokens of the bundled model, in id order from 0."""

MAX_WORDS = 64
"""Longest prompt in words; the bundled model never saw more than a dozen."""


class Prompts:
    """Text to ids for a word-level backbone.

    Args:
        tokenizer: maps words to ids.
        config: gives the special ids.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig):
        self._tokenizer, self._config = tokenizer, config

    def save(self, path: Path) -> None:
        """Writes tokenizer.json."""
        self._tokenizer.save(str(path))

    def words(self, text: str) -> list[str]:
        """The prompt's words as the tokenizer sees them."""
        normal = self._tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    def unknown(self, text: str) -> list[str]:
        """Words of the prompt that the backbone never saw."""
        return [word for word in self.words(text) if self._tokenizer.token_to_id(word) is None]

    def frame(self, text: str) -> list[int]:
        """`BOS words BOI`; an empty prompt gives the unconditional frame. Raises `UserError` if it is too long."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_WORDS:
            raise UserError(f"The prompt has {len(ids)} words; at most {MAX_WORDS} are allowed: {text[:60]!r}...")
        return [self._config.bos_id, *ids, self._config.boi_id]


def pad_left(frames: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Frames to ids int32 [B, S] and mask bool [B, S], padded on the left; S is `length` or a whole bucket."""
    length = length or bucket(max(len(frame) for frame in frames))
    ids = np.full((len(frames), length), pad_id, np.int32)
    mask = np.zeros((len(frames), length), bool)
    for row, frame in enumerate(frames):
        ids[row, length - len(frame) :] = frame
        mask[row, length - len(frame) :] = True
    return ids, mask


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads tokenizer.json of a checkpoint folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist, so prompts cannot be read.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise UserError(f"{path} is not a tokenizer file: {error}.") from None


def word_tokenizer(captions: Iterable[str]) -> Tokenizer:
    """A word-level tokenizer over the words of the captions, the most frequent first, after the special tokens."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIALS[1]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("['\u2019]"), ""),
            normalizers.Replace(Regex("[^a-z0-9-]+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    splitter = Prompts(tokenizer, None)
    counts = Counter(word for caption in captions for word in splitter.words(caption))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *words])}
    tokenizer.model = models.WordLevel(vocab=vocabulary, unk_token=SPECIALS[1])
    return tokenizer
