"""Measures how many images a minute decoders draw, by the number of images in a batch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ssd_jax.decode.base import Decoder
from ssd_jax.errors import UserError
from ssd_jax.pipeline.opening import is_random
from ssd_jax.pipeline.pipeline import Pipeline


class Throughput(NamedTuple):
    """Of one decoder and one size of batches.

    Attributes:
        per_minute: images a minute, the median over repeats; compilation and VQ decoder excluded.
        waiting: share of its batch's passes for which an image, on average, was finished and waited for the others.
    """

    per_minute: float
    waiting: float


def require_countable(pipe: Pipeline, decoders: Mapping[str, Decoder]) -> None:
    """Raises `UserError` for decoders whose passes depend on the image, if images are noise."""
    if is_random(pipe) and (adaptive := [name for name, decoder in decoders.items() if decoder.adaptive]):
        raise UserError(f"How many passes an image of noise takes means nothing; leave out {', '.join(adaptive)}.")


def measure_throughput(
    pipe: Pipeline, decoders: Mapping[str, Decoder], prompts: Sequence[str], sizes: Sequence[int], repeats: int
) -> dict[str, dict[int, Throughput]]:
    """Draws the same images with every decoder in batches of every size, in turn, `repeats` times.

    Args:
        pipe: the model.
        decoders: by name.
        prompts: taken in turn; every image has a seed of its own.
        sizes: of batches; each divides the last one, which is the number of images.
        repeats: timed runs of each.
    """
    images = sizes[-1]
    texts = list(itertools.islice(itertools.cycle(prompts), images))
    kinds = [(name, size) for size in sizes for name in decoders]
    seconds: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    waiting = {}
    rounds = [kind for _ in range(repeats + 1) for kind in kinds]  # the first one compiles and warms up
    for number, (name, size) in enumerate(tqdm(rounds, desc="throughput", unit="run", dynamic_ncols=True)):
        out = pipe.generate(texts, decoders[name], seed=list(range(images)), max_batch=size, pixels=False)
        if number >= len(kinds):
            seconds[name, size].append(out.seconds)
        batches = out.passes.reshape(-1, size)
        waiting[name, size] = 1.0 - float(out.passes.mean() / batches.max(axis=1).mean())
    return {
        name: {
            size: Throughput(60 * images / float(np.median(seconds[name, size])), waiting[name, size]) for size in sizes
        }
        for name in decoders
    }


def throughput_table(found: Mapping[str, Mapping[int, Throughput]]) -> str:
    """A markdown table: a line per decoder, images a minute by size of batches, and the waiting in the largest."""
    sizes = list(next(iter(found.values())))
    heads = ["decoder", *(f"images / min, {size} at once" for size in sizes), "waiting"]
    lines = [
        [f"`{name}`", *(f"{each.per_minute:.0f}" for each in row.values()), f"{row[sizes[-1]].waiting:.0%}"]
        for name, row in found.items()
    ]
    rule = "|---" * len(heads) + "|"
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])
