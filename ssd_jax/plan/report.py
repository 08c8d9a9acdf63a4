"""The plan as text for a terminal."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp

from ssd_jax.decode.presets import PRESETS, Decoder, has_heads, on_accelerator
from ssd_jax.decode.stretches import total
from ssd_jax.plan.chips import CHIPS, Chip
from ssd_jax.plan.job import Job, count
from ssd_jax.plan.memory import Memory, Scratch, memory, smallest_mesh
from ssd_jax.plan.speed import picture, verify
from ssd_jax.sharding import device_bytes

UNITS = {"s": 1.0, "ms": 1e3}
REDUCES = {None: 2, "int8": 4}
"""All-reduces of a layer: two sums; of int8 also the largest number of each row, before it is rounded."""

ASSUMED = 3
"""What is charged for a decoder whose passes depend on the picture: those of `ar`, divided by this. An assumption."""

ROWS = 4
"""Rows of the widest window for which a pass is listed."""

LEGEND = """\
At best, by datasheet rates: the longer of reading memory once and of the arithmetic, the cache filled to half the
picture. Left out: sampling, gaps between kernels{latency}.
Attention as it is written reads the whole cache, {unfilled} a pass more.
Passes that depend on the picture: from all drafts accepted to 1/{assumed} of those of ar, which is an assumption."""

LATENCY = """, and the latency of all-reduces; every microsecond that one
takes adds {added:.3f} ms to a pass, which has {reduces}"""


_NAMES = "".join(f"{chip.name:>13}" for chip in CHIPS)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table of decoders.

    Attributes:
        name: the decoder's.
        passes: the fewest, and those assumed; equal where the number is known.
        seconds: of one picture, likewise, for every chip.
    """

    name: str
    passes: tuple[int, int]
    seconds: tuple[tuple[float, float], ...]


def rows(job: Job, decoders: Mapping[str, Decoder], chips: Iterable[Chip] = CHIPS) -> list[Row]:
    """The decoders' passes and seconds; those that need more heads than the job has are left out."""
    found = []
    assumed = -(-total(PRESETS["ar"].stretches(job.grid)) // ASSUMED)
    for name, decoder in decoders.items():
        if not has_heads(decoder, job.heads.horizontal, job.heads.vertical):
            continue
        decoder = on_accelerator(decoder)
        least = decoder.stretches(job.grid, job.heads.horizontal)
        most = decoder.stretches(job.grid, job.heads.horizontal, assumed) if decoder.adaptive else least
        seconds = tuple((picture(job, least, chip), picture(job, most, chip)) for chip in chips)
        found.append(Row(name, (total(least), total(most)), seconds))
    return found


def render(job: Job, decoders: Mapping[str, Decoder], scratch: Scratch) -> str:
    """The whole plan. The bytes are those of the first decoder, `scratch` being of its programs; the seconds are those
    of all presets and of the decoders."""
    name, decoder = next(iter(decoders.items()))
    found = memory(job, decoder, scratch)
    table = rows(job, {**PRESETS, **decoders})
    parts = [_head(job), _memory(job, name, found), _passes(job), _pictures(job, table)]
    return "\n\n".join([*parts, _verdicts(job, decoder, found, table)])


def _head(job: Job) -> str:
    heads, parameters, drafters = job.heads, count(job.backbone()), count(job.drafters())
    kind = jnp.dtype(job.dtype).name + (f", the blocks' matrices in {job.quantize}" if job.quantize else "")
    mesh = f"mesh data:{job.data},model:{job.model}" if job.devices > 1 else "one device"
    return (
        f"{job.config.architecture}: {_counted(parameters)} parameters in {kind}, with the "
        f"{job.config.visual_size} visual rows of the output head\n"
        f"draft heads: {heads.horizontal} to the right, {heads.vertical} down, {_counted(drafters)} parameters in all\n"
        f"{mesh}; {job.images} picture{'s' * (job.images > 1)} of {job.grid.rows} x {job.grid.cols} tokens at once, "
        f"{job.rows} row{'s' * (job.rows > 1)}{' with guidance' * job.guided}, {job.prompt} slots for the prompt"
    )


def _memory(job: Job, name: str, m: Memory) -> str:
    several = job.devices > 1
    lines = [
        ("weights", m.weights, ""),
        ("draft heads", m.heads, "" if m.heads else f"{name} needs none"),
        ("image tokenizer", m.tokenizer, "float32" + ", on the first device alone" * several),
        ("KV cache", m.cache, f"{job.slots} slots"),
        ("temporaries", m.temporaries, "at most: of the decode compiled for CPUs in float32"),
        ("  of these logits", m.logits, "float32, of the widest pass"),
        ("pixels", m.pixels, "at most, likewise; after the decode, when the cache is gone"),
        ("most at a time", m.total, ""),
    ]
    title = f"memory on {'the first' if several else 'the'} device, {name}"
    return "\n".join([title, *(f"  {label:20}{_bytes(size):>10}  {remark}".rstrip() for label, size, remark in lines)])


def _passes(job: Job) -> str:
    cols = job.grid.cols
    lines = [f"{'ms a pass, window':25}{_NAMES}"]
    for label, window in (("1", 1), (f"{cols}, a row", cols), (f"{ROWS * cols}, {ROWS} rows", ROWS * cols)):
        cells = (f"{_digits(verify(job, window, window).seconds(chip) * 1e3):>13}" for chip in CHIPS)
        lines.append(f"  {label:23}{''.join(cells)}")
    return "\n".join(lines)


def _pictures(job: Job, table: list[Row]) -> str:
    unit = _unit(table)
    lines = [f"{f'{unit} a picture':14}{'passes':>11}{_NAMES}"]
    for row in table:
        cells = (f"{_range(*(_digits(value * UNITS[unit]) for value in pair)):>13}" for pair in row.seconds)
        lines.append(f"  {row.name:12}{_range(*map(str, row.passes)):>11}{''.join(cells)}")
    reduces = REDUCES[job.quantize] * job.config.layers
    latency = LATENCY.format(reduces=reduces, added=reduces / 1e3) if job.model > 1 else ""
    unfilled = _bytes(device_bytes(job.cache()) * (1 - job.context / job.slots))
    lines.append(LEGEND.format(latency=latency, unfilled=unfilled, assumed=ASSUMED))
    return "\n".join(lines)


def _verdicts(job: Job, decoder: Decoder, found: Memory, table: list[Row]) -> str:
    known, unit = [row for row in table if row.passes[0] == row.passes[1]], _unit(table)
    lines = []
    for place, chip in enumerate(CHIPS):
        there, needed = f"{chip.memory / 1e9:.0f} GB", f"at most {_bytes(found.total)}"
        if found.total <= chip.memory:
            best = min(known, key=lambda row: row.seconds[place][0])
            seconds = f"{_digits(best.seconds[place][0] * UNITS[unit])} {unit}"
            verdict = f"fits in {there}: {needed}; fastest where passes are known: {best.name}, {seconds}"
        else:
            exact = f"{_bytes(found.exact)} without temporaries"
            verdict = f"does not fit in {there}: {needed}, {exact}; {_advice(job, decoder, found, chip)}"
        lines.append(f"{chip.name:9}{verdict}")
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


def _unit(table: list[Row]) -> str:
    """ "s", or "ms" where every picture takes less than a second."""
    return "s" if max(most for row in table for _, most in row.seconds) >= 1 else "ms"


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
