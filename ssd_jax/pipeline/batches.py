"""Cuts the images of a call into batches of one shape, so that they share a program."""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Key

from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.noise import image_keys


def batches(
    prompts: Sequence, negatives: Sequence | None, seeds: Sequence[int], numbers: Sequence[int], size: int, pad_id: int
) -> Iterator[tuple[PromptBatch, Key[Array, " B"]]]:
    """Prompts and noise keys of `size` images at a time.

    Args:
        prompts, negatives: framed prompts of all images, and the prompts of the unconditional rows; None without
            guidance.
        seeds, numbers: the keys' (seed, number) of every image.
        size: images of a batch. A short last batch is filled with the last image.
        pad_id: pads prompts.
    """
    count = len(prompts)
    for start in range(0, count, size):
        part = [min(index, count - 1) for index in range(start, start + size)]
        away = None if negatives is None else [negatives[index] for index in part]
        keys = image_keys(jnp.array([seeds[i] for i in part], jnp.uint32), jnp.array([numbers[i] for i in part]))
        yield PromptBatch.stack([prompts[index] for index in part], away, pad_id), keys
