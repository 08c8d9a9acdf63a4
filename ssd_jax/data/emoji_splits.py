"""Splits emoji images into training and held-out sets, deterministically by their codes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

HELD_OUT_IDENTITIES = 0.04  # share of all identities
HELD_OUT_COMBINATIONS = 0.05  # share of the (style, identity, tone) combinations of the others


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends only on the text, the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def assign_splits(records: Sequence[Mapping[str, str]]) -> list[str]:
    """The split of each image; needs "style", "identity" and "tone" of each.

    "identity" has every image of its identities. "combination" has entire (style, identity, tone) combinations, but
    only while "train" keeps another image of that identity and another one of that style and tone: training sees each
    element, never the combination. "train" has the rest.

    The choice of held-out identities depends only on their codes; that of combinations, also on the other images.
    """
    combinations = [(r["style"], r["identity"], r["tone"]) for r in records]
    unseen = {c for c in combinations if stable_fraction(f"identity {c[1]}") < HELD_OUT_IDENTITIES}
    seen = sorted(set(combinations) - unseen)
    of_identity = Counter(identity for _, identity, _ in seen)
    of_look = Counter((style, tone) for style, _, tone in seen)
    drawn = {c: stable_fraction("combination " + " ".join(c)) for c in seen}
    held_out = set()
    for style, identity, tone in sorted(seen, key=drawn.__getitem__):
        combination = (style, identity, tone)
        if drawn[combination] >= HELD_OUT_COMBINATIONS:
            break
        if of_identity[identity] > 1 and of_look[style, tone] > 1:
            of_identity[identity] -= 1
            of_look[style, tone] -= 1
            held_out.add(combination)
    return ["identity" if c in unseen else "combination" if c in held_out else "train" for c in combinations]
