"""The seed of every image of a benchmark."""

from ssd_jax.eval.benchmarks.base import SAMPLES

SPREAD = 2654435761
"""2**32 divided by the golden ratio, as an odd number (Knuth, The Art of Computer Programming 3, section 6.4). Its
small multiples modulo 2**32 lie far apart, so the images of two runs with small seeds have no seed in common."""

RULE = f"(seed * {SPREAD} + {SAMPLES} * prompt + sample) % 2**32, prompt and sample counted from 0"
"""What `seed_of` reckons, for records."""


def seed_of(seed: int, prompt: int, sample: int) -> int:
    """The seed of an image, from 0 to 2**32 - 1. It depends on nothing else, so neither on what is drawn beside it.

    Args:
        seed: of the whole benchmark.
        prompt: its number in the order of the prompts, from 0.
        sample: number of the image among those of the prompt, from 0.
    """
    return (seed * SPREAD + SAMPLES * prompt + sample) % 2**32
