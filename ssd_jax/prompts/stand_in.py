"""Prompts for a model without a tokenizer, because its weights are random: frames of about the usual length."""

import zlib

from ssd_jax.models.config import ModelConfig
from ssd_jax.sequence.layout import Grid


class StandIn:
    """`BOS word ... word BOI`, an id for every word; the unconditional frame is as long, with padding between."""

    def __init__(self, config: ModelConfig):
        self._config = config

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame, and the negative prompt's or the unconditional one."""
        del grid
        frame = self._frame(text)
        if negative is not None:
            return frame, self._frame(negative)
        return frame, [frame[0], *[max(self._config.pad_id, 0)] * (len(frame) - 2), frame[-1]]

    def _frame(self, text: str) -> list[int]:
        words = (zlib.crc32(word.encode()) % self._config.vocab_size for word in text.split())
        return [self._config.bos_id, *words, self._config.boi_id]

    def words(self, text: str) -> list[str]:
        """The prompt's words."""
        return text.split()

    def unknown(self, text: str) -> list[str]:
        """Words outside the vocabulary: none."""
        del text
        return []
