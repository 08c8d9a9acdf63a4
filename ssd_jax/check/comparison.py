"""The parts of a check, one after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ssd_jax.check import verdicts
from ssd_jax.check.folder import Found
from ssd_jax.check.memory import require_memory
from ssd_jax.check.ours import Tokenizer, backbone_arrays
from ssd_jax.check.reference import ask, require_reference
from ssd_jax.check.task import CODES, PROMPT, given_image, task_for
from ssd_jax.check.verdicts import Part
from ssd_jax.errors import UserError
from ssd_jax.models.vq import to_float
from ssd_jax.pipeline.loading import load

SAME = ("architecture", "vocab_size", "visual_size", "layers", "width")
"""What two folders must agree on to be of one model."""


def compare(
    found: Found, reference: Found, vq_weights: Path | None, layers: int, dtype: str, say: Callable[[str], None]
) -> Iterator[Part]:
    """Compares a published model with transformers, which runs first and is gone before our weights are read.

    Args:
        found, reference: the folder that this library reads, and the one that transformers does.
        vq_weights: as for `folder.inspect`, of `found`.
        layers: so many of the first layers take part.
        dtype: of the backbones' weights.
        say: takes remarks for the page.
    Raises:
        UserError: folders of two models, or that cannot be read; too little memory; transformers is not there.
    """
    for name in SAME:
        one, other = (getattr(side.config, name) for side in (found, reference))
        if one != other:
            raise UserError(f"The two folders are not of one model: {name} is {one} here and {other} in --reference.")
    require_reference(reference)
    task = task_for(found, layers, dtype)
    say(f"memory: {require_memory(found, reference, task)}")
    answer = ask(reference, task)
    theirs = answer.arrays
    bounds = verdicts.bounds_for(dtype, layers)
    say(f"{layers} of {found.config.layers} layers, weights in {dtype}")
    say(f"{PROMPT!r} is {len(task.prompt)} ids: {_ids(task.prompt)}")
    yield verdicts.special_ids(found.config, reference.config, answer.ids)
    ours = backbone_arrays(found, task)
    yield verdicts.logits(ours["logits"], theirs["logits"], bounds)
    yield verdicts.greedy(ours["greedy"], theirs["greedy"], theirs["greedy_logits"], bounds)
    if found.vq_weights is None or "latents" not in theirs:
        which = "--weights" if found.vq_weights is None else "--reference"
        yield Part("image tokenizer", None, f"there is none in {which} that can be read")
        return
    tokenizer = Tokenizer(found, vq_weights)
    read, pixels = tokenizer.read(task.image), tokenizer.pixels(theirs["encoded"])
    yield verdicts.encoding(read, theirs)
    yield verdicts.decoding(pixels, theirs.get("pixels"))
    say(_round_trip(task.image, tokenizer.pixels(read["encoded"])))


def look(found: Found) -> Iterator[Part]:
    """What can be seen of a model that transformers does not have. Raises `UserError` for weights that cannot be
    read."""
    pipe = load(found.folder, dtype="float32")  # refuses values that are not finite
    yield Part("values", True, f"backbone{' and draft heads' if pipe.heads else ''} are finite")
    image, tokenizer = given_image(CODES * found.vq.stride), Tokenizer(found)
    pixels = tokenizer.pixels(tokenizer.read(image)["encoded"])
    yield Part("image and back", bool(np.isfinite(pixels).all()), _round_trip(image, pixels))


def _round_trip(image: np.ndarray, pixels: np.ndarray) -> str:
    return f"image to codes to image: PSNR {verdicts.psnr(np.clip(pixels, -1, 1), to_float(image)):.1f} dB, no bound"


def _ids(ids: list[int]) -> str:
    """Ids on a line, the middle of a long list left out."""
    text = [str(id) for id in ids]
    return " ".join(text if len(text) <= 24 else [*text[:12], "...", *text[-12:]])
