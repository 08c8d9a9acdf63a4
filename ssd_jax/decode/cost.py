"""How many passes a decoder makes and how wide they are: what a picture costs, before one is drawn."""

from collections.abc import Iterable
from typing import NamedTuple

Count = int | float
"""Passes: a whole number for a picture, maybe none for the mean of several."""


class Stretch(NamedTuple):
    """Passes of one kind, and the drafts made between them.

    Attributes:
        passes: how many.
        window: W, visual tokens that a pass is fed; 0 stands for the prompt.
        outputs: positions of a pass whose logits are needed; a pass that only fixes the cache has none.
        drafts: how often the heads are called.
        horizontal, vertical: heads that draft in one call.
        sources: positions that one call drafts from, without those that are only context.
    """

    passes: Count
    window: int
    outputs: int
    drafts: Count = 0
    horizontal: int = 0
    vertical: int = 0
    sources: int = 0


Stretches = tuple[Stretch, ...]

PREFILL = Stretch(passes=1, window=0, outputs=1)
"""The pass over the prompt; it gives the first token."""


def total(stretches: Iterable[Stretch]) -> Count:
    """Passes of a picture, the prefill included."""
    return sum(stretch.passes for stretch in stretches)


def widest(stretches: Iterable[Stretch]) -> int:
    """Visual tokens in the widest pass."""
    return max(stretch.window for stretch in stretches)
