"""Pads frames of several lengths to one array."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.sequence.dims import bucket


def pad_left(frames: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Frames to ids int32 [B, S] and mask bool [B, S], padded on the left; S is `length` or a full bucket."""
    length = length or bucket(max(len(frame) for frame in frames))
    ids = np.full((len(frames), length), pad_id, np.int32)
    mask = np.zeros((len(frames), length), bool)
    for row, frame in enumerate(frames):
        ids[row, length - len(frame) :] = frame
        mask[row, length - len(frame) :] = True
    return ids, mask
