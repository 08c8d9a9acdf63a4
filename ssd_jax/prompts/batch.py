"""Builds the CFG batch of prompts: conditional rows, then the unconditional rows of guidance."""

from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

from ssd_jax.prompts.padding import pad_left

Frame = Sequence[int]


@flax.struct.dataclass
class PromptBatch:
    """B prompts; G = 2B rows with guidance, the conditional ones first, else B.

    Attributes:
        ids: int32 [G, S], padded on the left.
        mask: bool [G, S], False on padding.
        guided: whether there are unconditional rows (static).
    """

    ids: np.ndarray | jax.Array
    mask: np.ndarray | jax.Array
    guided: bool = flax.struct.field(pytree_node=False)

    @classmethod
    def stack(
        cls, frames: Sequence[Frame], negatives: Sequence[Frame] | None, pad_id: int, length: int | None = None
    ) -> "PromptBatch":
        """Builds one from the frames of B prompts and of their negative or unconditional prompts (None: no guidance).
        S is `length` or a full bucket. Padding is masked; its id is 0 for a model without a padding id."""
        guided = negatives is not None
        return cls(*pad_left([*frames, *(negatives if guided else ())], max(pad_id, 0), length), guided)

    @property
    def images(self) -> int:
        """B, the number of images."""
        return len(self.ids) // (1 + self.guided)

    def take(self, images: np.ndarray) -> "PromptBatch":
        """Some of the prompts, int [N], with their unconditional rows."""
        rows = np.concatenate([images, self.images + images]) if self.guided else images
        return PromptBatch(self.ids[rows], self.mask[rows], self.guided)

    def conditional(self) -> "PromptBatch":
        """Without the unconditional rows."""
        return PromptBatch(self.ids[: self.images], self.mask[: self.images], False)
