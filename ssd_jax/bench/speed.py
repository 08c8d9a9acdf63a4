"""Measures passes and seconds of decoders, interleaved, so that drift of the machine affects all alike."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import total, widest
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.layout import Grid

PASSES = 32
"""Number of timed passes for decoders whose own number of passes would be meaningless."""

PILOT = 4
"""Passes of the pilot runs, from which the total time is estimated."""


class Part(NamedTuple):
    """The timed passes of a decoder, where complete images are not timed.

    Attributes:
        before: passes made first: the prefill, and a row loop's first grid row, whose windows differ from the rest; the
            most possible where that depends on the image.
        timed: the next passes, which are timed; fewer if the image is finished first; full periods of a schedule.
        whole: passes of an image; None where it depends on the image.
    """

    before: int
    timed: int
    whole: int | None


@dataclasses.dataclass(frozen=True)
class Runs:
    """Measurements of one decoder on J images, each decoded `repeats` times at batch 1.

    Attributes:
        tokens: int32 [J, R, C]; None where images were not completed.
        passes: int32 [J], prefill included; None where they depend on the image and it was not completed.
        seconds: float64 [repeats, J], per complete image, compilation and VQ decoder excluded; None likewise.
        seconds_per_pass: median over all runs; None where an image had no pass to time.
        extrapolated: number of passes from which seconds are extrapolated; 0 where images were completed.
    """

    tokens: np.ndarray | None
    passes: np.ndarray | None
    seconds: np.ndarray | None
    seconds_per_pass: float | None
    extrapolated: int = 0


def part_of(decoder: Decoder, grid: Grid, horizontal: int, passes: int) -> Part:
    """The passes to time: at least `passes` with the widest window, if there are so many."""
    stretches = [stretch for stretch in decoder.stretches(grid, horizontal) if stretch.passes]
    width = widest(stretches)
    main = [stretch.passes for stretch in stretches if stretch.window == width]
    before, count = total(stretches) - sum(main), sum(main)
    if decoder.adaptive:
        # A block of grid row 0 with "auto" rounds commits at least a token per pass, and takes one pass more.
        most = before + grid.cols - 1 if before > 1 else before
        return Part(most, passes, None)
    cycle = count // math.gcd(*main)
    return Part(before, min(-(-passes // cycle) * cycle, count), before + count)


def measure_speed(
    pipe: Pipeline,
    decoders: dict[str, Decoder],
    prompts: Sequence[str],
    seeds: int,
    repeats: int,
    passes: int | None = None,
    counts: bool = True,
) -> dict[str, Runs]:
    """Decodes every (prompt, seed) with every decoder, `repeats` times, in turn.

    Args:
        pipe: the model.
        decoders: by name.
        prompts, seeds, repeats: the images, and runs of each.
        passes: time only this many passes of every decoder (see `part_of`) and extrapolate; None: complete images.
        counts: False: passes that depend on the image would be meaningless, so only a few of such decoders are timed.
    """
    jobs = [(text, seed) for text in prompts for seed in range(seeds)]
    grid, horizontal = Grid(pipe.config.rows, pipe.config.cols), pipe.head_counts[0]
    parts: dict[str, Part | None] = {}
    for name, decoder in decoders.items():
        some = passes or (PASSES if not counts and decoder.adaptive else None)
        parts[name] = part_of(decoder, grid, horizontal, some) if some else None

    def pilot_of(name: str) -> Part:
        return part_of(decoders[name], grid, horizontal, PILOT)

    def draw(name: str, text: str, seed: int, part: Part | None) -> tuple:
        """One complete image, or the passes before the timed ones, and with them."""
        # One program is enough where passes are counted.
        whole = (None if counts and not passes else max(grid.size, pilot_of(name).whole or 0) + 1,)
        limits = whole if part is None else (part.before, part.before + part.timed)
        options = dict(decoder=decoders[name], seed=seed, pixels=False)
        return tuple(pipe.generate([text], max_passes=limit, **options) for limit in limits)

    expected = {}
    for name in tqdm(decoders, desc="compiling", unit="decoder", dynamic_ncols=True):
        part = parts[name]
        # Small models are warmed up with complete images; random weights may be of large ones.
        pilot = part if counts and not passes else pilot_of(name)
        for _ in range(2):  # the first run after compiling is a warm-up
            seconds = [out.seconds for out in draw(name, prompts[0], 0, pilot)]
        expected[name] = sum(seconds)
        if pilot is not None:
            each = (seconds[1] - seconds[0]) / max(pilot.timed, 1)
            rest = (pilot.whole or 0) - pilot.before if part is None else part.timed
            expected[name] = seconds[0] * (1 if part is None else 2) + each * rest
    outs: dict[str, list[tuple]] = {name: [] for name in decoders}
    runs = len(jobs) * repeats
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of decoding [{elapsed}<{remaining}]"
    with tqdm(total=sum(expected.values()) * runs, desc="speed", bar_format=form, dynamic_ncols=True) as bar:
        for text, seed in jobs * repeats:
            for name in decoders:
                outs[name].append(draw(name, text, seed, parts[name]))
                bar.update(min(expected[name], bar.total - bar.n))
    return {name: _collect(found, len(jobs), parts[name]) for name, found in outs.items()}


def agreement(tokens: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Share of equal tokens and share of equal images, of int32 [N, R, C] twice."""
    equal = (tokens == reference).reshape(len(tokens), -1)
    return float(equal.mean()), float(equal.all(axis=1).mean())


def _collect(outs: list[tuple], jobs: int, part: Part | None) -> Runs:
    seconds = np.array([[out.seconds for out in found] for found in outs])
    if part is None:
        passes = np.concatenate([out.passes for (out,) in outs[:jobs]])
        seconds = seconds.reshape(-1, jobs)
        tokens = np.concatenate([out.tokens for (out,) in outs[:jobs]])
        return Runs(tokens, passes, seconds, float(np.median(seconds / passes)))
    # Of passes actually made: an image may have been finished before.
    made = np.array([int(after.passes[0] - before.passes[0]) for before, after in outs])
    each = (seconds[:, 1] - seconds[:, 0])[made > 0] / made[made > 0]
    if part.whole is None or not each.size:
        per_pass = float(np.median(each)) if each.size else None
        return Runs(None, None, None, per_pass, int(made.max()))
    # The first passes as measured, the others extrapolated from the timed ones.
    whole = (seconds[:, 0] + each * (part.whole - part.before)).reshape(-1, jobs)
    return Runs(None, np.full(jobs, part.whole), whole, float(np.median(whole)) / part.whole, int(made.max()))
