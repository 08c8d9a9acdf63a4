"""Whether two sides agree, within which bounds."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ssd_jax.check.folder import Found
from ssd_jax.models.config import NONE, SPECIAL, ModelConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """Attributes:
    name: of what was looked at.
    passed: None: it was not compared.
    said: the numbers and their bounds.
    """

    name: str
    passed: bool | None
    said: str


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far logits may lie apart, as shares of their spread (the standard deviation of all of transformers' logits).

    Attributes:
        mean, most: the mean and the largest of all differences.
        tie: two codes whose logits are closer count as equally likely.
    """

    mean: float
    most: float
    tie: float


def bounds_for(dtype: str, layers: int) -> Bounds:
    """From what was measured on random models of every family with up to 32 layers (docs/big-models.md).

    Bounds in float32 are thirty times the largest, because real models are wider. In bfloat16 transformers rounds what
    goes from layer to layer and this library does not, so that differences grow with depth; there bounds are about
    twice those measured.
    """
    if dtype == "float32":
        return Bounds(mean=3e-4, most=3e-3, tie=1e-3)
    depth = math.sqrt(layers + 1)
    return Bounds(mean=0.04 * depth, most=0.3 * depth, tie=0.1 * depth)


LATENTS, CODES, PIXELS = 1e-3, 0.98, 5e-3
"""Bounds of image tokenizers, which are float32: the largest difference of latents and of pixels as a share of their
spread, and the least share of equal codes."""


def tensors(found: Found) -> Part:
    """Whether the folder has the tensors that it should have."""
    faults = [f"{len(names)} {what}, such as {names[0]!r}" for what, names in _odd(found).items() if names]
    faults += [f"image tokenizer: {found.vq_fault}"] if found.vq_fault else []
    return Part("tensors", not faults, "; ".join(faults) or "none missing, none unexplained")


def _odd(found: Found) -> dict[str, tuple[str, ...]]:
    return {"missing": found.missing, "unexplained": found.unknown}


def special_ids(config: ModelConfig, reference: ModelConfig, known: Mapping[str, int]) -> Part:
    """Whether both folders, and transformers' class as far as it knows, have the same special ids.

    Args:
        config, reference: of the folder that this library reads and of the one that transformers does.
        known: what transformers says.
    """
    fields = ("visual_offset", "visual_size", *(f"{key}_id" for key in SPECIAL))
    theirs = {name: getattr(reference, name) for name in fields} | dict(known)
    ours = {name: getattr(config, name) for name in theirs}
    wrong = [f"{name} {ours[name]}, not {theirs[name]}" for name in theirs if ours[name] != theirs[name]]
    agreed = f"the same in both folders; transformers' class tells {', '.join(known) or 'none'}"
    return Part("special ids", not wrong, "; ".join(wrong) or agreed)


def logits(ours: np.ndarray, theirs: np.ndarray, bounds: Bounds) -> Part:
    """Of given codes, both [R*C, V]."""
    spread = _spread(theirs)
    apart = np.abs(ours.astype(np.float64) - theirs) / spread
    mean, most = float(apart.mean()), float(apart.max())
    same = int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    said = (
        f"differences of their spread of {spread:.3g}: mean {mean:.1e} (bound {bounds.mean:.1e}), largest {most:.1e} "
        f"(bound {bounds.most:.1e}); correlation {np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]:.7f}; the same most "
        f"likely code in {same} of {len(theirs)} places"
    )
    return Part("logits", mean <= bounds.mean and most <= bounds.most, said)  # NaN fails


def greedy(ours: np.ndarray, theirs: np.ndarray, their_logits: np.ndarray, bounds: Bounds) -> Part:
    """The most likely codes, one after the other, both [R*C]. The first that differs is excused if transformers' own
    logits [R*C, V] nearly tie there; what follows has other codes before it and is not compared."""
    places = np.flatnonzero(ours != theirs)
    if not len(places):
        return Part("greedy codes", True, f"{len(theirs)} of {len(theirs)} the same")
    place, spread = int(places[0]), _spread(their_logits)
    row = their_logits[place]
    gap = float(row[theirs[place]] - row[ours[place]]) / spread
    said = (
        f"the first {place} of {len(theirs)} the same, then another, which transformers finds less likely by {gap:.1e} "
        f"of the spread (a tie below {bounds.tie:.1e}); those behind it are not compared"
    )
    return Part("greedy codes", gap <= bounds.tie, said)


def encoding(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Part:
    """Latents and codes of the image, by name."""
    most, spread = _apart(ours["latents"], theirs["latents"])
    same = float((ours["encoded"] == theirs["encoded"]).mean())
    said = (
        f"latents differ by at most {most:.1e} of their spread of {spread:.3g} (bound {LATENTS:.1e}); {same:.1%} of "
        f"{theirs['encoded'].size} codes the same (bound {CODES:.0%})"
    )
    return Part("image to codes", most <= LATENTS and same >= CODES, said)


def decoding(ours: np.ndarray, theirs: np.ndarray | None) -> Part:
    """Pixels of the same codes; None: transformers has no decoder for them."""
    if theirs is None:
        return Part("codes to image", None, "transformers has no decoder for these tensors")
    most, spread = _apart(ours, theirs)
    said = (
        f"pixels differ by at most {most:.1e} of their spread of {spread:.3g} (bound {PIXELS:.1e}); "
        f"PSNR of one against the other {psnr(ours, theirs):.1f} dB"
    )
    return Part("codes to image", most <= PIXELS, said)


def _apart(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The largest difference as a share of the spread, and the spread."""
    spread = _spread(theirs)
    return float(np.abs(ours.astype(np.float64) - theirs).max()) / spread, spread


def _spread(theirs: np.ndarray) -> float:
    """The standard deviation; 1 of what is the same everywhere."""
    return float(theirs.std()) or 1.0


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Decibels, the peak being the distance from the least to the largest number of `theirs`."""
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return math.inf if not error else 10 * math.log10(float(np.ptp(theirs)) ** 2 / error)


def unlike_published(config: ModelConfig, published: ModelConfig) -> list[str]:
    """What a config says otherwise than the published model, sizes left out, of which families have several."""
    fields = ("rope_theta", "norm_eps", "qk_norm", "visual_offset", "visual_size", "rows", "cols")
    fields += tuple(f"{key}_id" for key in SPECIAL)
    pairs = {name: (getattr(config, name), getattr(published, name)) for name in fields}
    return [f"{name} {found} (published {known})" for name, (found, known) in pairs.items() if found != known]


def known_ids(config: ModelConfig) -> dict[str, int]:
    """Special ids by name, those left out that the backbone does not have."""
    ids = {key: getattr(config, f"{key}_id") for key in SPECIAL}
    return {key: value for key, value in ids.items() if value != NONE}
