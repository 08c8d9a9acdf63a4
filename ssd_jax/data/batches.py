"""Batches of images as codes with prompts as ids, whatever data they come from."""

from typing import NamedTuple, Protocol

import numpy as np

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt ids int32 and prompt mask bool [G, S], codes int32 [B, R*C]; G is B, or 2B with unconditional rows behind."""


class Dropped(NamedTuple):
    """Shares of what training does not tell.

    Attributes:
        prompt: images whose whole prompt is dropped, so that the unconditional rows of guidance are learned, too.
        style: captions without their style, so that a plain "red apple" is a prompt.
        word: words that are replaced by the unknown one.
    """

    prompt: float
    style: float = 0.0
    word: float = 0.0


class PromptedSource(Protocol):
    """Images as codes with their prompts as ids."""

    def batch(self, size: int, dropped: Dropped, seed: int, step: int) -> Rows:
        """A training batch of so many images, a pure function of its arguments."""

    def heldout(self, limit: int) -> np.ndarray:
        """At most so many images that are not trained on, as numbers of images."""

    def given(self, indices: np.ndarray) -> Rows:
        """Images with their prompts."""

    def guided(self, indices: np.ndarray) -> Rows:
        """Images with their prompts and, behind these, as many unconditional rows; codes of the images once."""


def whole_batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    """Batches of one size; a rest is left out, fewer images than a batch are repeated."""
    parts = [indices[start : start + batch] for start in range(0, len(indices) - batch + 1, batch)]
    return parts or [np.resize(indices, batch)]
