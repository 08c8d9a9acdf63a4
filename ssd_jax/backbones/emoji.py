"""The bundled emoji model, and any other model in our own format that is trained or exported with this library.

    BOS words BOI | ROWS * COLS codes

The unconditional frame is BOS BOI.
"""

from pathlib import Path

from tokenizers import Tokenizer

from ssd_jax.backbones.base import Backbone
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig, VQConfig
from ssd_jax.prompts.sizes import is_ratio, parse_size
from ssd_jax.prompts.words import split_words
from ssd_jax.sequence.layout import Grid

MODEL = {
    "layers": 6,
    "width": 256,
    "mlp_width": 704,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 128,
    "rope_theta": 10_000.0,
    "qk_norm": "rms",
    "places": True,
    "cfg_scale": 2.0,  # cleanest images among scales 1.5 to 7
    "top_k": 20,
}
"""Fields of its `ModelConfig`; training sets the others, such as the vocabulary, from the captions."""

VQ = VQConfig(
    channels=48, multipliers=(1, 2), blocks=1, patch=4, groups=16, codebook_size=1024, code_dim=8, normalised=True
)

MAX_WORDS = 64
"""Longest prompt in words; the bundled model was trained on a dozen at most."""


class EmojiPrompts:
    """Turns text into ids for a word-level backbone.

    Args:
        tokenizer: maps words to ids.
        config: has the special ids.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig):
        self._tokenizer, self._config = tokenizer, config

    def save(self, path: Path) -> None:
        """Writes tokenizer.json."""
        self._tokenizer.save(str(path))

    def words(self, text: str) -> list[str]:
        """The prompt's words as the tokenizer sees them."""
        return split_words(self._tokenizer, text)

    def unknown(self, text: str) -> list[str]:
        """Words of the prompt that are not in the vocabulary."""
        return [word for word in self.words(text) if self._tokenizer.token_to_id(word) is None]

    def frame(self, text: str) -> list[int]:
        """`BOS words BOI`; an empty prompt gives the unconditional frame. Raises `UserError` if it is too long."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_WORDS:
            raise UserError(f"The prompt has {len(ids)} words; at most {MAX_WORDS} are allowed: {text[:60]!r}...")
        return [self._config.bos_id, *ids, self._config.boi_id]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The frames of the prompt and of the negative prompt; None is the unconditional frame."""
        del grid  # not part of this model's prompts
        return self.frame(text), self.frame(negative or "")

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The token grid of an image of `size`; raises `UserError` for sides that are not multiples of `stride`."""
        del config  # all sizes are allowed
        height, width = parse_size(size)
        if is_ratio(size) or any(side < stride or side % stride for side in (height, width)):
            raise UserError(f"This model draws images of HEIGHTxWIDTH in multiples of {stride} pixels, not {size}.")
        return Grid(height // stride, width // stride)


BACKBONE = Backbone("emoji", EmojiPrompts)
