"""Builds a word-level tokenizer from captions."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

SPECIALS = ("<pad>", "<unk>", "<bos>", "<boi>")
"""Special tokens of the tokenizer, in id order from 0."""


def split_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text as the tokenizer sees them, unknown words included."""
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


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
    counts = Counter(word for caption in captions for word in split_words(tokenizer, caption))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *words])}
    tokenizer.model = models.WordLevel(vocab=vocabulary, unk_token=SPECIALS[1])
    return tokenizer
