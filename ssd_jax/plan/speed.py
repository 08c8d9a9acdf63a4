"""How fast a chip can be at best: the longer one of reading the memory once and of doing the arithmetic (the roofline
model, doi.org/10.1145/1498765.1498785), at datasheet rates.

Counted are products of matrices, attention over the slots filled on average, and, on a mesh, two all-reduces a layer
and the gathering of the logits, each in a ring. Not counted are sampling, gaps between kernels, the all-reduces with
which int8 finds the largest number of a row (a few bytes), and the latency of every all-reduce, which no datasheet
gives.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssd_jax.decode.stretches import Stretches
from ssd_jax.models.int8 import SUFFIX
from ssd_jax.plan.chips import Chip
from ssd_jax.plan.job import Job
from ssd_jax.sharding import device_bytes, device_shape
from ssd_jax.weights.mapping import flatten

TABLES = ("embedding", "code_embedding.table")
"""Parameters of which a pass reads only a few rows."""

OUTPUT = ("visual_head", "visual_mlp")
"""Parameters that logits alone need, by the first part of the name."""

CONTEXT = ("see", "use")
"""Parameters of the draft heads that only vertical ones have."""


INT8 = 0.5
"""What an operation with int8 operands counts: the makers of all chips listed state twice the rate of bfloat16."""

SUMS = jnp.dtype(jnp.float32).itemsize
"""Bytes of a partial sum that all-reduces add up: activations are float32 whatever the weights are."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does.

    Attributes:
        read: bytes read from memory.
        flops: operations, at the rate of bfloat16.
        sent: bytes sent in rings.
    """

    read: float = 0.0
    flops: float = 0.0
    sent: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.read + other.read, self.flops + other.flops, self.sent + other.sent)

    def seconds(self, chip: Chip) -> float:
        """At best; sending does not overlap with the rest, which waits for it."""
        return max(self.read / chip.bandwidth, self.flops / chip.flops) + self.sent / chip.link


class Size(NamedTuple):
    """What one device has of something.

    Attributes:
        bytes: to read.
        flops: operations that it takes for one row.
    """

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Size") -> "Size":  # type: ignore[override]
        return Size(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: float) -> "Size":
        """So many of these."""
        return Size(self.bytes * count, self.flops * count)


class Sizes(NamedTuple):
    """What one device has.

    Attributes:
        body: parameters that every pass multiplies.
        output: those that only logits need.
        head: of one draft head, without what only a vertical one has.
        context: of one vertical head's context.
        cache: bytes of the filled slots, on average over a picture.
    """

    body: Size
    output: Size
    head: Size
    context: Size
    cache: float


@functools.lru_cache
def sizes(job: Job) -> Sizes:
    """The sizes of a job."""
    body = output = head = context = Size()
    for name, leaf in flatten(job.backbone()).items():
        if name.split(".")[0] in OUTPUT:
            output += _size(name, leaf)
        elif name not in TABLES:
            body += _size(name, leaf)
    for name, leaf in flatten(job.drafters()).items():
        each = _size(name, leaf).times(1 / leaf.shape[0])  # one entry per head
        head, context = (head, context + each) if name.removesuffix(SUFFIX) in CONTEXT else (head + each, context)
    return Sizes(body, output, head, context, device_bytes(job.cache()) * job.context / job.slots)


def _size(name: str, leaf: jax.ShapeDtypeStruct) -> Size:
    numbers = math.prod(device_shape(leaf))
    flops = 0 if name.endswith(SUFFIX) else 2 * numbers * (INT8 if leaf.dtype == jnp.int8 else 1)
    return Size(numbers * leaf.dtype.itemsize, flops)


def verify(job: Job, window: int, outputs: int) -> Work:
    """A pass that is fed `window` visual tokens (0: the prompt) and gives the logits of `outputs` positions."""
    c, rows = job.config, job.rows // job.data
    has, slots = sizes(job), rows * job.fed(window)
    attended = 4 * slots * job.context * c.layers * c.heads / job.model * c.head_dim
    reduced = 2 * c.layers * slots * c.width * SUMS
    work = Work(
        read=has.body.bytes + has.cache,
        flops=slots * has.body.flops + attended,
        sent=2 * (job.model - 1) / job.model * reduced,
    )
    return work + logits(job, outputs) if outputs else work


def draft(job: Job, horizontal: int, vertical: int, sources: int) -> Work:
    """A call of draft heads for `sources` positions, and the logits of what they predict."""
    has, rows, used = sizes(job), job.rows // job.data, horizontal + vertical
    heads = has.head.times(used) + has.context.times(vertical)
    work = Work(read=heads.bytes, flops=rows * sources * heads.flops)
    return work + logits(job, sources * used)


def logits(job: Job, outputs: int) -> Work:
    """The output head for so many positions; all devices are given all logits."""
    has, devices = sizes(job), job.data * job.model
    return Work(
        read=has.output.bytes,
        flops=job.rows // job.data * outputs * has.output.flops,
        sent=(devices - 1) / devices * job.rows * outputs * job.config.visual_size * 4,
    )


def picture(job: Job, stretches: Stretches, chip: Chip) -> float:
    """Seconds that a chip takes for one picture of the batch at best."""
    seconds = 0.0
    for s in stretches:
        seconds += s.passes * verify(job, s.window, s.outputs).seconds(chip)
        if s.drafts:
            seconds += s.drafts * draft(job, s.horizontal, s.vertical, s.sources).seconds(chip)
    return seconds / job.images
