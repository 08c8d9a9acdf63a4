"""Computes a lower bound of the time of a pass and of an image, at a chip's stated or measured rates.

Counted are the products with all parameters, attention as the job's implementation moves its bytes (`plan.attention`),
and, on a mesh, two all-reduces per layer and the all-gather of the logits, each in a ring. A pass is three steps that
wait for each other: the products of the blocks, attention, the output head. Not counted are activations between
products (float32), sampling, gaps between kernels, the all-reduces with which int8 finds the largest number of a row (a
few bytes), and the latency of every all-reduce, which no datasheet gives.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssd_jax.decode.cost import Stretches
from ssd_jax.models.int8 import SUFFIX
from ssd_jax.parallel.mesh import device_shape
from ssd_jax.plan.attention import attention, beside
from ssd_jax.plan.chips import Chip
from ssd_jax.plan.job import Job
from ssd_jax.plan.roofline import Steps, Work, seconds
from ssd_jax.weights.mapping import flatten

TABLES = ("embedding", "code_embedding.table")
"""Parameters of which a pass reads only a few entries."""

OUTPUT = ("visual_head", "visual_mlp")
"""Parameters that only logits need, by the first part of the name."""

CONTEXT = ("see", "use")
"""Parameters of draft heads that only vertical ones have."""


INT8 = 0.5
"""Cost of an operation with int8 operands: the datasheets of all chips state twice the rate of bfloat16."""

SUMS = jnp.dtype(jnp.float32).itemsize
"""Bytes of a partial sum in an all-reduce: activations are float32 whatever the dtype of the weights."""


class Size(NamedTuple):
    """One device's shard of some parameters.

    Attributes:
        bytes: bytes to read.
        flops: operations for one row of activations.
    """

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Size") -> "Size":  # type: ignore[override]
        return Size(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: float) -> "Size":
        """`count` times this size."""
        return Size(self.bytes * count, self.flops * count)


class Sizes(NamedTuple):
    """One device's shards of the models.

    Attributes:
        body: parameters that every pass multiplies.
        output: those that only logits need.
        head: one draft head, without the parameters of vertical ones only.
        context: one vertical draft head's context.
        branch: the vertical branch, its output head included.
    """

    body: Size
    output: Size
    head: Size
    context: Size
    branch: Size


@functools.lru_cache
def sizes(job: Job) -> Sizes:
    """The sizes of a job."""
    body = output = head = context = Size()
    for name, leaf in flatten(job.backbone()).items():
        if name.split(".")[0] in OUTPUT:
            output += size(name, leaf)
        elif name not in TABLES:
            body += size(name, leaf)
    for name, leaf in flatten(job.drafters()).items():
        each = size(name, leaf).times(1 / leaf.shape[0])  # one entry per draft head
        head, context = (head, context + each) if name.removesuffix(SUFFIX) in CONTEXT else (head + each, context)
    branch = sum((size(name, leaf) for name, leaf in flatten(job.below()).items()), Size())
    return Sizes(body, output, head, context, branch)


def size(name: str, leaf: jax.ShapeDtypeStruct) -> Size:
    """Size of a parameter, by its flat name."""
    numbers = math.prod(device_shape(leaf))
    flops = 0 if name.endswith(SUFFIX) else 2 * numbers * (INT8 if leaf.dtype == jnp.int8 else 1)
    return Size(numbers * leaf.dtype.itemsize, flops)


def verify(job: Job, window: int, outputs: int, inputs_beside: int = 0, branch: int = 0) -> Steps:
    """A pass that is fed `window` visual tokens (0: the prompt) and others beside them, and computes the logits of
    `outputs` positions; with the vertical branch, whose attention counts as a share of the backbone's."""
    c, fed = job.config, window if branch else job.fed(window)  # with the branch no row ends are fed
    has, slots = sizes(job), job.rows // job.data * (fed + inputs_beside)
    layers, body = c.layers + branch * job.head_counts.branch_layers, has.body + has.branch.times(branch)
    reduced = 2 * layers * slots * c.width * SUMS
    products = Work(moved=body.bytes, flops=slots * body.flops, sent=2 * (job.model - 1) / job.model * reduced)
    at_once = job.attention == "plain"  # the cache is read once for all
    attended = [attention(job, fed + inputs_beside * at_once).times(layers / c.layers)]
    if inputs_beside and not at_once:
        attended.append(beside(job, inputs_beside))
    return products, *attended, *([logits(job, outputs, 1 + branch)] if outputs else [])


def draft(job: Job, horizontal: int, vertical: int, sources: int) -> Steps:
    """A call of draft heads for `sources` positions, and the logits of what they predict."""
    has, rows, used = sizes(job), job.rows // job.data, horizontal + vertical
    heads = has.head.times(used) + has.context.times(vertical)
    return Work(moved=heads.bytes, flops=rows * sources * heads.flops), logits(job, sources * used)


def logits(job: Job, outputs: int, copies: int = 1) -> Work:
    """The output head for `outputs` positions; logits, of `copies` such heads, are replicated on all devices."""
    has, devices = sizes(job), job.data * job.model
    return Work(
        moved=has.output.bytes,
        flops=job.rows // job.data * outputs * has.output.flops,
        sent=(devices - 1) / devices * job.rows * copies * outputs * job.config.visual_size * 4,
    )


def picture(job: Job, stretches: Stretches, chip: Chip) -> float:
    """Least seconds that a chip needs for one image of the batch."""
    total = 0.0
    for s in stretches:
        total += s.passes * seconds(verify(job, s.window, s.outputs, s.beside, s.branch), chip)
        if s.drafts:
            total += s.drafts * seconds(draft(job, s.horizontal, s.vertical, s.sources), chip)
    return total / job.images


def twice(job: Job, chip: Chip) -> int | None:
    """The smallest window whose pass takes twice as long as that of a single token; None: no window does."""
    one = seconds(verify(job, 1, 1), chip)
    low, high = 1, job.grid.size + 1  # a wider window never takes less
    while high - low > 1:
        middle = (low + high) // 2
        if seconds(verify(job, middle, middle), chip) < 2 * one:
            low = middle
        else:
            high = middle
    return high if high <= job.grid.size else None
