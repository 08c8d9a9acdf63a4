"""Serves emoji as codes with captions as ids, to train the bundled model's backbone and draft heads."""

import numpy as np

from ssd_jax.backbones.emoji import EmojiPrompts
from ssd_jax.data.batches import Dropped, Rows
from ssd_jax.data.emoji import HELD_OUT, EmojiData
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.dims import bucket


class CaptionedCodes:
    """Serves batches as a pure function of (seed, step); a `batches.PromptedSource`.

    Args:
        data: the images' captions, splits and weights.
        codes: int32 [N, R*C], the images encoded by the tokenizer.
        prompts: caption -> ids.
        pad_id, unk_id: special ids.
    """

    def __init__(self, data: EmojiData, codes: np.ndarray, prompts: EmojiPrompts, pad_id: int, unk_id: int):
        self.data, self.codes = data, codes
        self.pad_id, self.unk_id = pad_id, unk_id
        self.captions = [prompts.frame(text) for text in data.captions]
        self.names = [prompts.frame(text) for text in data.names]
        self.empty = prompts.frame("")
        self.length = bucket(max(map(len, self.captions)))
        self.train = data.indices("train")
        self.chance = data.weights[self.train] / data.weights[self.train].sum()

    def batch(self, size: int, dropped: Dropped, seed: int, step: int) -> Rows:
        """Prompt ids, prompt mask and codes of a training batch."""
        rng = np.random.default_rng([seed, step])
        picked = rng.choice(self.train, size, p=self.chance)
        frames = []
        for index in picked:
            frame = list((self.names if rng.random() < dropped.style else self.captions)[index])
            for place in range(1, len(frame) - 1):
                if rng.random() < dropped.word:
                    frame[place] = self.unk_id
            frames.append(self.empty if rng.random() < dropped.prompt else frame)
        return *pad_left(frames, self.pad_id, self.length), self.codes[picked]

    def split(self, split: str, limit: int) -> np.ndarray:
        """At most `limit` images of a split, evenly spread."""
        indices = self.data.indices(split)
        return indices[np.linspace(0, len(indices) - 1, min(limit, len(indices))).astype(int)]

    def heldout(self, limit: int) -> np.ndarray:
        """Held-out combinations, or another split if there are none, as in a small set of one style."""
        return next(picked for name in HELD_OUT if len(picked := self.split(name, limit)))

    def given(self, indices: np.ndarray, captions_of: np.ndarray | None = None) -> Rows:
        """Full captions and codes of the images; `captions_of` gives images whose captions are used instead."""
        frames = [self.captions[i] for i in (indices if captions_of is None else captions_of)]
        return *pad_left(frames, self.pad_id, self.length), self.codes[indices]

    def guided(self, indices: np.ndarray) -> Rows:
        """As `given`, with a CFG batch: captions, then as many unconditional prompts; codes are not repeated."""
        frames = [self.captions[i] for i in indices]
        batch = PromptBatch.stack(frames, [self.empty] * len(indices), self.pad_id, self.length)
        return batch.ids, batch.mask, self.codes[indices]
