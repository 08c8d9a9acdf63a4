"""What both sides are given: a prompt, codes and an image that are always the same."""

import dataclasses

import numpy as np

from ssd_jax.backbones.prompting import grid_of, read_prompts
from ssd_jax.check.folder import Found
from ssd_jax.sequence.layout import Grid

PROMPT = "a lighthouse at dusk"

GRID = Grid(2, 16)
"""32 codes in two rows, so that a row end is among what a model with row ends reads."""

CODES = 8
"""Codes of the image, each way."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Attributes:
    prompt: ids of the prompt's frame, S.
    codes: int32 [1, R*C], given codes that no model drew.
    image: uint8 [height, width, 3].
    layers: so many of the first layers take part.
    dtype: of the backbones' weights, "float32" or "bfloat16". Image tokenizers are float32.
    """

    prompt: list[int]
    codes: np.ndarray
    image: np.ndarray
    layers: int
    dtype: str


def task_for(found: Found, layers: int, dtype: str) -> Task:
    """The task for a checkpoint. Raises `UserError` if it has no tokenizer, or an id of its prompts is not known."""
    config = found.config
    frame, _ = read_prompts(found.folder, config).pair(PROMPT, None, grid_of(config, None, found.vq.stride))
    return Task(frame, given_codes(config.visual_size), given_image(CODES * found.vq.stride), layers, dtype)


def given_codes(size: int) -> np.ndarray:
    """Codes all over a codebook of `size`, int32 [1, R*C]."""
    place = np.arange(GRID.size, dtype=np.int64)
    return ((place * 7919 + place**2 * 104729 + 17) % size).astype(np.int32)[None]


def given_image(side: int) -> np.ndarray:
    """A sky that grows darker, a sun, and stripes, uint8 [side, side, 3]."""
    y, x = np.mgrid[:side, :side] / side
    sky = np.stack([200 - 120 * y, 90 + 60 * x, 120 + 100 * y], axis=-1)
    sun = ((x - 0.65) ** 2 + (y - 0.3) ** 2 < 0.03)[..., None]
    stripes = ((y > 0.7) & ((x * 16).astype(int) % 2 == 0))[..., None]
    image = np.where(sun, [250.0, 220.0, 120.0], np.where(stripes, [30.0, 60.0, 50.0], sky))
    return image.astype(np.uint8)
