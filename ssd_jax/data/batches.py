"""Defines batches of images as codes with prompts as ids, independent of the data set."""

from typing import NamedTuple, Protocol

import numpy as np

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt ids int32 and prompt mask bool [G, S], codes int32 [B, R*C]; G is B, or 2B, unconditional rows last."""


class Dropped(NamedTuple):
    """Shares of the prompts' content that training drops.

    Attributes:
        prompt: images without any prompt, so that the unconditional distribution of guidance is learned.
        style: captions without their style, so that a plain "red apple" is a prompt.
        word: words replaced by the unknown word.
    """

    prompt: float
    style: float = 0.0
    word: float = 0.0


class PromptedSource(Protocol):
    """Images as codes with their prompts as ids."""

    def batch(self, size: int, dropped: Dropped, seed: int, step: int) -> Rows:
        """A training batch of `size` images, a pure function of its arguments."""

    def heldout(self, limit: int) -> np.ndarray:
        """Indices of at most `limit` held-out images."""

    def given(self, indices: np.ndarray) -> Rows:
        """Images with their prompts."""

    def guided(self, indices: np.ndarray) -> Rows:
        """Images with a CFG batch of prompts: their own, then as many unconditional ones; codes are not repeated."""


def whole_batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    """Splits indices into batches of one size; drops a remainder, and repeats images if there are too few."""
    parts = [indices[start : start + batch] for start in range(0, len(indices) - batch + 1, batch)]
    return parts or [np.resize(indices, batch)]
