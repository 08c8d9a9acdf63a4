"""Measures how many images a minute decoders draw, by the number of images in a batch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ssd_jax.bench.speed import part_of
from ssd_jax.decode.base import Decoder
from ssd_jax.errors import UserError
from ssd_jax.pipeline.opening import is_random
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.layout import Grid


class Throughput(NamedTuple):
    """Of one decoder and one size of batches.

    Attributes:
        per_minute: images a minute, the median over repeats; compilation and VQ decoder excluded. None where only some
            passes were timed and how many there are depends on the image.
        waiting: share of its batch's passes for which an image, on average, was finished and waited for the others;
            None where images were not completed.
        seconds_per_pass: of a batch; None where images were completed.
    """

    per_minute: float | None
    waiting: float | None
    seconds_per_pass: float | None = None


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


def estimate_throughput(
    pipe: Pipeline,
    decoders: Mapping[str, Decoder],
    prompts: Sequence[str],
    sizes: Sequence[int],
    repeats: int,
    passes: int,
) -> dict[str, dict[int, Throughput]]:
    """Times at least `passes` passes of one batch of every size with every decoder, in turn, `repeats` times, and
    extrapolates (see `bench.speed.part_of`); other arguments as for `measure_throughput`. A batch takes the first
    prompts, so that batches of different sizes may have prompts of different lengths."""
    grid, horizontal = Grid(pipe.config.rows, pipe.config.cols), pipe.head_counts[0]
    parts = {name: part_of(decoder, grid, horizontal, passes) for name, decoder in decoders.items()}
    kinds = [(name, size) for size in sizes for name in decoders]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {kind: [] for kind in kinds}
    rounds = [kind for _ in range(repeats + 1) for kind in kinds]  # the first one compiles and warms up
    for number, (name, size) in enumerate(tqdm(rounds, desc="throughput", unit="run", dynamic_ncols=True)):
        part = parts[name]
        texts, options = list(itertools.islice(itertools.cycle(prompts), size)), dict(max_batch=size, pixels=False)
        first, both = (
            pipe.generate(texts, decoders[name], seed=list(range(size)), max_passes=limit, **options)
            for limit in (part.before, part.before + part.timed)
        )
        made = int(both.passes.max() - first.passes.max())
        if number >= len(kinds) and made:
            found[name, size].append((first.seconds, (both.seconds - first.seconds) / made))

    def of(name: str, size: int) -> Throughput:
        if not found[name, size]:  # every image was finished before the passes to time
            return Throughput(None, None, None)
        part = parts[name]
        each = float(np.median([seconds for _, seconds in found[name, size]]))
        if part.whole is None:
            return Throughput(None, None, each)
        whole = np.median([before + seconds * (part.whole - part.before) for before, seconds in found[name, size]])
        return Throughput(60 * size / float(whole), None, each)

    return {name: {size: of(name, size) for size in sizes} for name in decoders}


def throughput_table(found: Mapping[str, Mapping[int, Throughput]]) -> str:
    """A markdown table: a line per decoder, images a minute by size of batches, and the waiting in the largest; or, of
    some passes, milliseconds of one and the images a minute that follow."""
    sizes = list(next(iter(found.values())))
    if all(each.waiting is None for row in found.values() for each in row.values()):
        heads = ["decoder", *(f"ms / pass, {size} at once" for size in sizes)]
        heads += [f"images / min, {size} at once" for size in sizes]
        lines = [
            [
                f"`{name}`",
                *(_milliseconds(each.seconds_per_pass) for each in row.values()),
                *("" if each.per_minute is None else f"~{each.per_minute:.3g}" for each in row.values()),
            ]
            for name, row in found.items()
        ]
        return _markdown(heads, lines)
    heads = ["decoder", *(f"images / min, {size} at once" for size in sizes), "waiting"]
    lines = [
        [f"`{name}`", *(f"{each.per_minute:.0f}" for each in row.values()), f"{row[sizes[-1]].waiting:.0%}"]
        for name, row in found.items()
    ]
    return _markdown(heads, lines)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---" * len(heads) + "|"
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])
