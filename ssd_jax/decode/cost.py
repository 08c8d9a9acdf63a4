"""Describes the pass cost of a decoder: how many passes an image takes, and how wide they are."""

from collections.abc import Iterable
from typing import NamedTuple

Count = int | float
"""Number of passes: an integer for an image, possibly fractional for a mean."""


class Stretch(NamedTuple):
    """Pass cost of one kind of pass, and of the drafts between them.

    Attributes:
        passes: number of passes.
        window: W, visual tokens that a pass is fed; 0 stands for the prompt.
        outputs: positions of a pass whose logits are needed; 0 for a pass that only updates the cache.
        drafts: number of calls of the draft heads.
        horizontal, vertical: draft heads used in one call.
        sources: source positions of one call, without those that are only context.
        beside: E, inputs of a pass beside its window, which are not written to the cache.
        branch: 1 if a pass runs the vertical branch, too.
    """

    passes: Count
    window: int
    outputs: int
    drafts: Count = 0
    horizontal: int = 0
    vertical: int = 0
    sources: int = 0
    beside: int = 0
    branch: int = 0


Stretches = tuple[Stretch, ...]

PREFILL = Stretch(passes=1, window=0, outputs=1)
"""The pass over the prompt, which gives the first token."""


def total(stretches: Iterable[Stretch]) -> Count:
    """Passes of an image, the prefill included."""
    return sum(stretch.passes for stretch in stretches)


def widest(stretches: Iterable[Stretch]) -> int:
    """Visual tokens of the widest pass."""
    return max(stretch.window for stretch in stretches)


def most_inputs(stretches: Iterable[Stretch]) -> int:
    """Visual tokens that the largest pass is fed, in its window and beside it."""
    return max(stretch.window + stretch.beside for stretch in stretches)
