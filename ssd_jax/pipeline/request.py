"""Checks the arguments of `Pipeline.generate` and defines its result."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssd_jax.errors import UserError, is_whole, require_number, require_text, require_whole, shown
from ssd_jax.models.config import ModelConfig
from ssd_jax.sampling.distribution import Sampler
from ssd_jax.sequence.dims import bucket

MAX_GUIDANCE = 1000.0
"""Largest absolute value of the guidance scale. Published models use 1 to 10."""

MOST_IMAGES = 2**20
"""Most images of a call; their codes and pixels stay in memory until it ends."""

LONGEST_PROMPT = 20_000
"""Most characters of a prompt: many times what the longest context of the supported models can hold."""

COLDEST, HOTTEST = 1e-3, 1e3
"""Bounds of the temperature, 0 apart. With these and `MAX_GUIDANCE` logits of up to 1e31 stay finite in float32. At low
temperatures float32 rounding of logits of 30 changes the odds of near-ties: by 0.1 % at 1e-3, by 16 % at 1e-5. At high
ones many of 16384 codes get equal p: a nucleus of half the mass takes 2 codes too many at 1e3, 200 at 1e6, all at 1e8.
"""

LEAST_MASS = float(np.finfo(np.float32).tiny)
"""Least top_p. Smaller values are 0 on hardware without denormal numbers, and a nucleus of mass 0 has no code."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What `Pipeline.generate` returns; B images, prompt by prompt.

    Attributes:
        images: B images; empty if only tokens were requested.
        tokens: int32 [B, R, C], codes.
        passes: int32 [B], verifier passes, prefill included.
        trace: int32 [B, R, C], the pass in which each token became final.
        seconds: wall-clock of the decode (all batches), compilation and VQ decoder excluded, the time that `progress`
            takes included.
        compile_seconds: time spent compiling for this call; 0 if nothing was compiled.
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


def require_prompt(text: object, name: str = "A prompt") -> str:
    """Returns the text; raises `UserError`, about `name`, if it is not Unicode text or longer than `LONGEST_PROMPT`."""
    text = require_text(name, text)
    if len(text) > LONGEST_PROMPT:
        raise UserError(f"{name} has at most {LONGEST_PROMPT} letters, not {len(text)}: {shown(text)}.")
    return text


def images_of_call(
    prompts: Sequence[str], num_images: int, seed: int | Sequence[int]
) -> tuple[list[str], list[int], list[int]]:
    """Prompt, seed and occurrence number of every image of a call."""
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of texts, not a single text.")
    if not isinstance(prompts, Iterable):
        raise UserError(f"prompts must be a list of texts, not {shown(prompts)}.")
    prompts = [require_prompt(text) for text in prompts]
    if not prompts:
        raise UserError("There are no prompts.")
    num_images = require_whole("num_images", num_images, 1, None)
    if len(prompts) * num_images > MOST_IMAGES:
        raise UserError(
            f"At most {MOST_IMAGES} images are drawn in a call, not {len(prompts)} prompts x {shown(num_images)}."
        )
    seeds = _seeds(seed, len(prompts))
    pairs = [pair for pair in zip(prompts, seeds, strict=True) for _ in range(num_images)]
    seen: Counter = Counter()
    occurrences = []
    for pair in pairs:
        occurrences.append(seen[pair])
        seen[pair] += 1
    return [text for text, _ in pairs], [value for _, value in pairs], occurrences


def _seeds(seed: int | Sequence[int], prompts: int) -> list[int]:
    """The seed of every prompt."""
    seed = seed.tolist() if hasattr(seed, "tolist") else seed  # an array or a number of numpy's
    several = isinstance(seed, Iterable) and not isinstance(seed, str | bytes)
    seeds = list(seed) if several else [seed] * prompts
    for value in seeds:
        if not is_whole(value, 0) or value >= 2**32:
            raise UserError(f"A seed must be a whole number between 0 and {2**32 - 1}, not {shown(value)}.")
    if len(seeds) != prompts:
        raise UserError(f"There are {len(seeds)} seeds for {prompts} prompts.")
    return [int(value) for value in seeds]


def guidance_of(config: ModelConfig, cfg_scale: float | None) -> float:
    """The guidance scale rounded to float32; None is the model's own. Raises `UserError` beyond `MAX_GUIDANCE`."""
    cfg_scale = config.cfg_scale if cfg_scale is None else cfg_scale
    scale = require_number("cfg_scale", cfg_scale)
    if abs(scale) > MAX_GUIDANCE:
        raise UserError(f"cfg_scale must lie between {-MAX_GUIDANCE:g} and {MAX_GUIDANCE:g}, not {shown(cfg_scale)}.")
    return scale


def sampler_of(
    config: ModelConfig, cfg_scale: float | None, temperature: float, top_k: int | None, top_p: float | None
) -> Sampler:
    """The sampling parameters as arrays; None is the model's own (cfg_scale, top_k) or off (top_p), top_k 0 is off.

    Raises:
        UserError: a value that is not a number, or out of the range in which float32 is accurate enough.
    """
    scale, heat = guidance_of(config, cfg_scale), require_number("temperature", temperature)
    if temperature != 0 and not np.float32(COLDEST) <= heat <= HOTTEST:
        raise UserError(
            f"temperature must be 0, which takes the most likely code, or lie between {COLDEST:g} and {HOTTEST:g}, "
            f"not {shown(temperature)}."
        )
    top_k = require_whole("top_k", config.top_k if top_k is None else top_k, 0, None)
    mass = 1.0 if top_p is None else require_number("top_p", top_p)
    if not LEAST_MASS <= mass <= 1:
        raise UserError(f"top_p must be above 0 (at least {LEAST_MASS:.3g}) and at most 1, not {shown(top_p)}.")
    return Sampler(
        cfg_scale=jnp.float32(scale),
        temperature=jnp.float32(heat),
        top_k=jnp.int32(min(top_k or config.visual_size, config.visual_size)),
        top_p=jnp.float32(mass),
    )


def whole_batch(images: int, guided: bool, parts: int) -> int:
    """The smallest number of at least `images` images whose CFG batch divides into this many parts."""
    return bucket(images, parts // math.gcd(parts, 1 + guided))
