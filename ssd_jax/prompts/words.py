"""The bundled model's prompts: `BOS words BOI`; the unconditional frame is `BOS BOI`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts.sizes import is_ratio, parse_size

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

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The frame of the prompt and that of what guidance leads away from; None is the unconditional frame."""
        del grid  # is not told to this model
        return self.frame(text), self.frame(negative or "")

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The token grid of a picture of `size`; raises `UserError` for sides that are no multiples of `stride`."""
        del config  # any size will do
        height, width = parse_size(size)
        if is_ratio(size) or any(side < stride or side % stride for side in (height, width)):
            raise UserError(f"This model draws pictures of HEIGHTxWIDTH in multiples of {stride} pixels, not {size}.")
        return Grid(height // stride, width // stride)


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
