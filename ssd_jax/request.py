"""What a call of `Pipeline.generate` asks for, image by image, and what it gives back."""

import dataclasses
import math
import numbers
from collections import Counter
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.sampling import Sampler
from ssd_jax.shapes import bucket


@dataclasses.dataclass(frozen=True)
class Output:
    """What `Pipeline.generate` returns; B images, prompt by prompt.

    Attributes:
        images: B pictures; none where tokens alone were asked for.
        tokens: int32 [B, R, C], codebook ids.
        passes: int32 [B], verifier passes, prefill included.
        trace: int32 [B, R, C], the pass in which each token became final.
        seconds: wall-clock of the decode (all batches), compilation and VQ decoder excluded.
        compile_seconds: time spent compiling for this call; 0 when nothing had to be.
        prompts: the prompt of every image.
        seeds: the seed of every image.
        numbers: occurrence number of every image among equal prompts of the call; (seed, number) keys its noise.
    """

    images: list[Image.Image]
    tokens: np.ndarray
    passes: np.ndarray
    trace: np.ndarray
    seconds: float
    compile_seconds: float
    prompts: list[str]
    seeds: list[int]
    numbers: list[int]


def images_of_call(
    prompts: Sequence[str], num_images: int, seed: int | Sequence[int]
) -> tuple[list[str], list[int], list[int]]:
    """Prompt, seed and occurrence number of every image of a call."""
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of texts, not a single text.")
    if not prompts:
        raise UserError("There are no prompts.")
    if num_images < 1:
        raise UserError(f"num_images must be at least 1, not {num_images}.")
    seeds = [int(value) for value in ([seed] * len(prompts) if isinstance(seed, numbers.Integral) else seed)]
    if len(seeds) != len(prompts):
        raise UserError(f"There are {len(seeds)} seeds for {len(prompts)} prompts.")
    for value in seeds:
        if not 0 <= value < 2**32:
            raise UserError(f"A seed must be between 0 and {2**32 - 1}, not {value}.")
    pairs = [pair for pair in zip(prompts, seeds, strict=True) for _ in range(num_images)]
    seen: Counter = Counter()
    occurrences = []
    for pair in pairs:
        occurrences.append(seen[pair])
        seen[pair] += 1
    return [text for text, _ in pairs], [value for _, value in pairs], occurrences


def sampler_of(
    config: ModelConfig, cfg_scale: float, temperature: float, top_k: int | None, top_p: float | None
) -> Sampler:
    """The knobs of p as arrays; None is the model's default (top_k) or off (top_p), top_k 0 is off.

    Raises:
        UserError: a value out of range.
    """
    for name, value in (("cfg_scale", cfg_scale), ("temperature", temperature)):
        if not math.isfinite(value):
            raise UserError(f"{name} must be a finite number, but is {value}.")
    if temperature < 0:
        raise UserError(f"temperature must not be negative, but is {temperature}.")
    top_k = config.top_k if top_k is None else top_k
    if top_k < 0:
        raise UserError(f"top_k must not be negative, but is {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, but is {top_p}.")
    return Sampler(
        cfg_scale=jnp.float32(cfg_scale),
        temperature=jnp.float32(temperature),
        top_k=jnp.int32(min(top_k or config.visual_size, config.visual_size)),
        top_p=jnp.float32(1.0 if top_p is None else top_p),
    )


def whole_batch(images: int, guided: bool, parts: int) -> int:
    """The next number of images whose rows, those of guidance included, can be split into so many parts."""
    return bucket(images, parts // math.gcd(parts, 1 + guided))
