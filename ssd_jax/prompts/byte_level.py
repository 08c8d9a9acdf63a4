"""Prompts of byte-level text between special tokens, whose ids are looked up by name."""

from collections.abc import Mapping
from typing import ClassVar

from tokenizers import Tokenizer

from ssd_jax.errors import UserError
from ssd_jax.models.config import UNKNOWN, ModelConfig

MAX_TEXT = 512
"""Longest prompt in tokens, so that prompt and image stay within the positions the backbones were trained on."""


class ByteLevelPrompts:
    """Encodes text and special tokens of a backbone; subclasses assemble frames.

    Args:
        tokenizer: read from tokenizer.json.
        config: sizes and the default grid.
        vocabulary: the `vocabulary_map` of config.json, token -> id; may be empty.
        tokens: ids by the keys of `NAMES`; they take precedence over names.
    """

    NAMES: ClassVar[dict[str, str]]
    """Key -> name of every special token that frames use."""

    def __init__(
        self, tokenizer: Tokenizer, config: ModelConfig, vocabulary: Mapping[str, int], tokens: Mapping[str, int]
    ):
        self._tokenizer, self._config = tokenizer, config
        self._vocabulary = vocabulary
        self._tokens = {key.removesuffix("_id"): index for key, index in tokens.items()}
        added = tokenizer.get_added_tokens_decoder()
        self._special = {index for index, token in added.items() if token.special}

    def id(self, key: str, name: str | None = None) -> int:
        """Id of a special token: from `tokens`, by name from config.json or tokenizer.json, or from `config`."""
        name = name or self.NAMES[key]
        index = self._tokens.get(key, self._vocabulary.get(name))
        if index is None:
            index = self._tokenizer.token_to_id(name)
        if index is None and (known := getattr(self._config, f"{key}_id", UNKNOWN)) >= 0:
            index = known
        if index is None:
            raise UserError(
                f"Neither config.json nor tokenizer.json has a token {name!r}; give its id as tokens={{{key!r}: ...}}."
            )
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < self._config.vocab_size:
            raise UserError(f"The id of {name!r} must be in 0..{self._config.vocab_size - 1}, not {index!r}.")
        return index

    def text(self, prompt: str, template: str = "{}") -> list[int]:
        """Ids of `template` with the prompt in its place; raises `UserError` if the prompt is too long or names a
        special token, which would break the frame."""
        ids = self._encode(prompt)
        if len(ids) > MAX_TEXT:
            raise UserError(f"The prompt has {len(ids)} tokens; at most {MAX_TEXT} are allowed: {prompt[:60]!r}...")
        found = next((index for index in ids if index in self._special), None)
        if found is not None:
            name = self._tokenizer.id_to_token(found)
            raise UserError(f"The prompt {prompt[:60]!r} contains {name!r}, a special token of this model.")
        return ids if template == "{}" else self._encode(template.format(prompt))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def words(self, text: str) -> list[str]:
        """The prompt's words."""
        return text.split()

    def unknown(self, text: str) -> list[str]:
        """Words outside the vocabulary: none, as any text can be encoded byte by byte."""
        del text
        return []
