"""Serves images as codes with prompts of a published backbone, to train draft heads."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.data.batches import Dropped, Rows
from ssd_jax.errors import UserError
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.dims import bucket

Frames = Sequence[tuple[Sequence[int], Sequence[int]]]
"""For every prompt the ids of its frame, and of its unconditional frame."""


def split(prompts: np.ndarray, heldout: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of held-out images, at least `heldout`, and of the others.

    `prompts`, int32 [N], is the prompt of every image; a prompt's images are all held out, or none. Raises `UserError`
    if no others are left.
    """
    count = int(prompts.max()) + 1
    place = np.argsort(np.random.default_rng(0).permutation(count))[prompts]  # random rank of every image's prompt
    last = int(np.searchsorted(np.cumsum(np.bincount(place, minlength=count)), heldout))
    if not (place > last).any():
        raise UserError(
            f"There are {len(prompts)} images; to hold out {heldout} leaves none to train on: lower "
            "config.heldout or give more."
        )
    return np.flatnonzero(place <= last), np.flatnonzero(place > last)


class PromptedCodes:
    """Serves batches as a pure function of (seed, step); a `batches.PromptedSource`.

    Args:
        codes: int32 [N, R*C].
        prompts: int32 [N], the prompt of every image.
        frames: frames of every prompt.
        pad_id: id of the padding.
        heldout: see `split`.
    """

    def __init__(
        self,
        codes: np.ndarray,
        prompts: np.ndarray,
        frames: Frames,
        pad_id: int,
        heldout: int,
    ):
        self.codes, self.prompts, self.frames = codes, prompts, frames
        self.pad_id = pad_id
        self.length = bucket(max(len(frame) for pair in frames for frame in pair))
        self.kept_out, self.train = split(prompts, heldout)

    def batch(self, size: int, dropped: Dropped, seed: int, step: int) -> Rows:
        """A training batch; a dropped prompt is the unconditional frame.

        Every image is used once before any is repeated.
        """
        turns, places = np.divmod(np.arange(size) + step * size, len(self.train))
        orders = {turn: np.random.default_rng([seed, turn, 1]).permutation(self.train) for turn in set(turns.tolist())}
        picked = np.array([orders[turn][place] for turn, place in zip(turns.tolist(), places, strict=True)])
        without = np.random.default_rng([seed, step]).random(size) < dropped.prompt
        frames = [self._frame(index, gone) for index, gone in zip(picked, without, strict=True)]
        return *self._padded(frames), self.codes[picked]

    def heldout(self, limit: int) -> np.ndarray:
        """At most `limit` held-out images, evenly spread."""
        count = min(limit, len(self.kept_out))
        return self.kept_out[np.linspace(0, len(self.kept_out) - 1, count).astype(int)]

    def given(self, indices: np.ndarray) -> Rows:
        """Images with their prompts."""
        return *self._padded([self._frame(index, False) for index in indices]), self.codes[indices]

    def guided(self, indices: np.ndarray) -> Rows:
        """Images with a CFG batch of prompts: their own, then as many unconditional ones; codes are not repeated."""
        frames, negatives = ([self._frame(index, dropped) for index in indices] for dropped in (False, True))
        batch = PromptBatch.stack(frames, negatives, self.pad_id, self.length)
        return batch.ids, batch.mask, self.codes[indices]

    def _frame(self, index: int, dropped: bool) -> Sequence[int]:
        return self.frames[self.prompts[index]][int(dropped)]

    def _padded(self, frames: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        return pad_left(frames, self.pad_id, self.length)
