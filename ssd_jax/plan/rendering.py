"""Renders the plan as text for a terminal."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import total
from ssd_jax.decode.presets import PRESETS
from ssd_jax.plan.attention import score_bytes, scores
from ssd_jax.plan.chips import CHIPS, Chip
from ssd_jax.plan.job import Job, count
from ssd_jax.plan.memory import Memory, Scratch, memory, smallest_mesh
from ssd_jax.plan.roofline import seconds
from ssd_jax.plan.speed import picture, twice, verify
from ssd_jax.plan.this_machine import record

UNITS = {"s": 1.0, "ms": 1e3}
REDUCES = {None: 2, "int8": 4}
"""All-reduces of a layer: two sums; with int8 also the largest number of each row, before rounding."""

ASSUMED = 3
"""Assumed speedup in passes over `ar` of a decoder whose passes depend on the image."""

ROWS = 4
"""Grid rows in the widest window for which a pass is listed."""

LEGEND = (
    "At best, by {rates}. Products, attention and output head follow one another; each takes {how} of moving its bytes "
    "and of its arithmetic. Left out: what goes from product to product, sampling, gaps between kernels{latency}.",
    "Attention is {attention}. It reads the whole cache, filled or not.",
    "Passes that depend on the image: from all drafts accepted to 1/{assumed} of those of ar, which is an assumption.",
)

DATASHEETS = "datasheet rates"
MEASURED = "rates measured here ({})"

OVERLAPS = {True: "the longer", False: "the sum"}
"""Wording of `Chip.overlaps`."""

ATTENTION = {
    "plain": "plain: its scores are arrays, {each} bytes each, {scores} in a pass over a row of the grid",
    "fused": "fused: with cuDNN its scores stay on the chip; elsewhere they are arrays, {each} bytes each, {scores} "
    "in a pass over a row of the grid",
}
"""Assumptions behind the numbers."""

LATENCY = (
    ", and the latency of all-reduces; every microsecond that one takes adds {added:.3f} ms to a pass, which has "
    "{reduces}"
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table of decoders.

    Attributes:
        name: the decoder's name.
        passes: the fewest, and the assumed number; equal if the number is known.
        seconds: seconds of one image, likewise, for every chip.
    """

    name: str
    passes: tuple[int, int]
    seconds: tuple[tuple[float, float], ...]


def decoder_lines(job: Job, decoders: Mapping[str, Decoder], chips: Sequence[Chip] = CHIPS) -> list[Line]:
    """The decoders' passes and seconds, without those that need more draft heads than the job has, or a
    vertical branch."""
    found = []
    assumed = -(-total(PRESETS["ar"].stretches(job.grid)) // ASSUMED)
    for name, decoder in decoders.items():
        if not decoder.runs_with(*job.head_counts):
            continue
        decoder = job.as_run(decoder)
        least = decoder.stretches(job.grid, job.heads.horizontal)
        most = decoder.stretches(job.grid, job.heads.horizontal, assumed) if decoder.adaptive else least
        seconds = tuple((picture(job, least, chip), picture(job, most, chip)) for chip in chips)
        found.append(Line(name, (total(least), total(most)), seconds))
    return found


def render(job: Job, decoders: Mapping[str, Decoder], scratch: Scratch, chips: Sequence[Chip] = CHIPS) -> str:
    """The complete plan. Bytes are of the first decoder, whose programs `scratch` is for; seconds are of all presets
    and of the decoders. `chips` has the measured one only, if the job is for this machine."""
    name, decoder = next(iter(decoders.items()))
    found = memory(job, decoder, scratch)
    table = decoder_lines(job, {**PRESETS, **decoders}, chips)
    parts = [_head(job), _memory(job, name, found), _passes(job, chips), _pictures(job, table, chips)]
    return "\n\n".join([*parts, _verdicts(job, decoder, found, table, chips)])


def _head(job: Job) -> str:
    heads, parameters, drafters = job.heads, count(job.backbone()), count(job.drafters())
    kind = jnp.dtype(job.dtype).name + (f", the blocks' matrices in {job.quantize}" if job.quantize else "")
    mesh = f"mesh data:{job.data},model:{job.model}" if job.devices > 1 else "one device"
    return (
        f"{job.config.architecture}: {_counted(parameters)} parameters in {kind}, with the "
        f"{job.config.visual_size} visual rows of the output head\n"
        f"draft heads: {heads.horizontal} to the right, {heads.vertical} down, {_counted(drafters)} parameters in all\n"
        f"{mesh}; {job.images} image{'s' * (job.images > 1)} of {job.grid.rows} x {job.grid.cols} tokens at once, "
        f"{job.rows} row{'s' * (job.rows > 1)}{' with guidance' * job.guided}, {job.prompt} slots for the prompt"
    )


def _memory(job: Job, name: str, m: Memory) -> str:
    several = job.devices > 1
    lines = [
        ("weights", m.weights, ""),
        ("draft heads", m.heads, "" if m.heads else f"{name} needs none"),
        *([("vertical branch", m.branch, "")] if m.branch else []),
        ("image tokenizer", m.tokenizer, "float32" + ", on the first device alone" * several),
        ("KV cache", m.cache, f"{job.slots} slots"),
        ("temporaries", m.temporaries, "at most: of the decode compiled for CPUs in float32"),
        ("  of these logits", m.logits, "float32, of the widest pass"),
        ("pixels", m.pixels, "at most, likewise; after the decode, when the cache is gone"),
        ("most at a time", m.total, ""),
    ]
    title = f"memory on {'the first' if several else 'the'} device, {name}"
    return "\n".join([title, *(f"  {label:20}{_bytes(size):>10}  {remark}".rstrip() for label, size, remark in lines)])


def _passes(job: Job, chips: Sequence[Chip]) -> str:
    cols = job.grid.cols
    lines = [f"{'ms a pass, window':25}{_names(chips)}"]
    for label, window in (("1", 1), (f"{cols}, a row", cols), (f"{ROWS * cols}, {ROWS} rows", ROWS * cols)):
        cells = (f"{_digits(seconds(verify(job, window, window), chip) * 1e3):>13}" for chip in chips)
        lines.append(f"  {label:23}{''.join(cells)}")
    widths = (twice(job, chip) or "none" for chip in chips)
    lines.append(f"{'twice as long from':25}{''.join(f'{width:>13}' for width in widths)}")
    return "\n".join(lines)


def _pictures(job: Job, table: list[Line], chips: Sequence[Chip]) -> str:
    unit = _unit(table)
    lines = [f"{f'{unit} an image':14}{'passes':>11}{_names(chips)}"]
    for line in table:
        cells = (f"{_range(*(_digits(value * UNITS[unit]) for value in pair)):>13}" for pair in line.seconds)
        lines.append(f"  {line.name:12}{_range(*map(str, line.passes)):>11}{''.join(cells)}")
    reduces = REDUCES[job.quantize] * job.config.layers
    latency = LATENCY.format(reduces=reduces, added=reduces / 1e3) if job.model > 1 else ""
    rates = DATASHEETS
    if job.here:
        rates = MEASURED.format("; ".join(f"{value:.1f} {name}" for name, value in record(chips[0]).items()))
    moved = _bytes(scores(job, job.fed(job.grid.cols)))
    attention = ATTENTION[job.attention].format(each=score_bytes(job), scores=moved)
    words = dict(rates=rates, how=OVERLAPS[chips[0].overlaps], attention=attention, latency=latency, assumed=ASSUMED)
    lines += [textwrap.fill(text.format(**words), 118) for text in LEGEND]
    return "\n".join(lines)


def _verdicts(job: Job, decoder: Decoder, found: Memory, table: list[Line], chips: Sequence[Chip]) -> str:
    known, unit = [line for line in table if line.passes[0] == line.passes[1]], _unit(table)
    lines = []
    for place, chip in enumerate(chips):
        there, needed = f"{chip.memory / 1e9:.0f} GB", f"at most {_bytes(found.total)}"
        room = "free memory is not known; needed" if math.isinf(chip.memory) else f"fits in {there}"
        if found.total <= chip.memory:
            best = min(known, key=lambda line: line.seconds[place][0])
            seconds = f"{_digits(best.seconds[place][0] * UNITS[unit])} {unit}"
            verdict = f"{room}: {needed}; fastest where passes are known: {best.name}, {seconds}"
        else:
            exact = f"{_bytes(found.exact)} without temporaries"
            advice = "" if job.here else f"; {_advice(job, decoder, found, chip)}"
            verdict = f"does not fit in {there}: {needed}, {exact}{advice}"
        lines.append(f"{chip.name:9}{verdict}")
    if not job.here:
        lines.append("JAX takes three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.")
    return "\n".join(lines)


def _advice(job: Job, decoder: Decoder, found: Memory, chip: Chip) -> str:
    scratch = Scratch(found.temporaries, found.pixels)
    parts = smallest_mesh(job, decoder, scratch, chip)
    if parts is None:
        return "no model axis would"
    split = dataclasses.replace(job, model=parts)
    data = f"data:{job.data}," if job.data > 1 else ""
    return f"--mesh={data}model:{parts} would: {_bytes(memory(split, decoder, scratch).total)}"


def _names(chips: Sequence[Chip]) -> str:
    return "".join(f"{chip.name:>13}" for chip in chips)


def _unit(table: list[Line]) -> str:
    """ "s", or "ms" where every image takes less than a second."""
    return "s" if max(most for line in table for _, most in line.seconds) >= 1 else "ms"


def _digits(value: float) -> str:
    """Three digits or three decimals."""
    return f"{value:.{max(0, min(3, 2 - math.floor(math.log10(value))))}f}"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least}-{most}"


def _bytes(number: float) -> str:
    if not number:
        return "none"
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _counted(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"
