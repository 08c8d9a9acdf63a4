"""Measures the rates of this machine as a `Chip`, in some seconds while it is idle.

Datasheets say little about a CPU, so the main costs of a pass are timed, with the job's shapes and compiled as decoding
is:

- bandwidth: bytes of matrices per second in the products of a pass over one token. Pairs of mlp matrices (up, down) are
  multiplied one after the other, as the layers of a pass are. On CPUs a plain sum of a large array reads faster than
  XLA's bfloat16 products.
- wide: operations per second in the products of a pass over `ROWS` grid rows, all counted.
- flops: the same where memory reads and arithmetic overlap. Where they do not (`Chip.overlaps` false) it is the rate of
  further tokens: the operations of the wide products beyond those of one token, over the additional seconds. Wide
  products may also read the weights faster, which then counts as arithmetic: the rate is too high, and wide passes take
  longer than planned by it. Where wide products take no longer, or by no more than noise, both are timed again; if that
  does not help it is the rate `wide`, which counts reading the weights twice.
- attention: bytes per second that the job's attention moves for one token. XLA's products read the cache in one small
  product per batch row and head, which on CPUs is slower than reading weights.

The number of layers is the model's, but at most as many as fill `MOST` bytes, which CPU caches do not hold; a model
that fits in CPU caches is measured inside them.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ssd_jax.compiling import compiled
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.models.int8 import Int8, quantised
from ssd_jax.models.matmul import Products
from ssd_jax.parallel.mesh import device_bytes
from ssd_jax.pipeline.free_memory import free_bytes
from ssd_jax.plan.attention import attention
from ssd_jax.plan.chips import Chip
from ssd_jax.plan.job import Job
from ssd_jax.plan.speed import INT8

NAME = "here"

MOST = 10**9
"""Most bytes of the matrices, and of the key/value caches."""

ROWS = 4
"""Grid rows in the wide product."""

REPEATS = 5
"""Number of runs, of which the shortest counts."""

TRIES = 3
"""The most attempts at timing products until the wide ones take longer."""

NOISE = 0.1
"""Share of the wide products' seconds: a smaller difference from the narrow ones' is noise."""

RATES = {
    "GB/s of weights, few rows": "bandwidth",
    "GB/s of attention, one token": "attention",
    "GFLOP/s of further rows": "flops",
    "GFLOP/s of a wide product": "wide",
}
"""Name in files -> field of `Chip`."""

Pairs = tuple[tuple[jax.Array | Int8, jax.Array | Int8], ...]


def measure(job: Job) -> Chip:
    """The default device, for models of the job's sizes on one device."""
    free, backend = free_bytes(), jax.default_backend()
    overlaps = backend != "cpu"
    pairs = _pairs(job)
    leaves = jax.tree.leaves(pairs)
    operations = 2 * sum(leaf.size * (INT8 if leaf.dtype == jnp.int8 else 1) for leaf in leaves if leaf.ndim > 1)
    few, many = (job.rows * job.fed(window) for window in (1, min(ROWS * job.grid.cols, job.grid.size)))
    narrow, wide, longer = math.inf, math.inf, False
    for _ in range(TRIES):
        narrow, wide = min(narrow, products_seconds(pairs, few)), min(wide, products_seconds(pairs, many))
        longer = many > few and wide - narrow > NOISE * wide
        if longer or overlaps:
            break
    plain = many * operations / wide
    further = (many - few) * operations / (wide - narrow) if longer else plain
    read = sum(leaf.nbytes for leaf in leaves)
    del pairs, leaves  # there may be no room for them beside the caches
    chip = Chip(
        name=NAME,
        memory=math.inf if free is None else free,
        bandwidth=read / narrow,
        flops=plain if overlaps else further,
        link=math.inf,
        cudnn=backend == "gpu",
        overlaps=overlaps,
        wide=plain,
    )
    layers = min(job.config.layers, max(1, MOST * job.config.layers // device_bytes(job.cache())))
    moved = attention(job, job.fed(1)).all_moved(chip.cudnn) * layers / job.config.layers
    return dataclasses.replace(chip, attention=moved / attention_seconds(job, layers))


def record(chip: Chip) -> dict[str, float]:
    """The rates of a measured chip, for a file; without that of further rows where memory and arithmetic overlap."""
    fields = {name: field for name, field in RATES.items() if not (chip.overlaps and field == "flops")}
    return {name: getattr(chip, field) / 1e9 for name, field in fields.items()}


def recorded(values: Mapping[str, Any]) -> Chip:
    """The chip of a CPU's file, with the rates for planned seconds; its memory is not recorded."""
    rates = {field: values[name] * 1e9 for name, field in RATES.items() if field != "wide"}
    return Chip(NAME, memory=math.inf, link=math.inf, overlaps=False, **rates)


def products_seconds(pairs: Pairs, rows: int) -> float:
    """Seconds of products of `rows` rows with all matrices."""
    return _shortest(_products, _numbers((rows, pairs[0][0].shape[1]), jnp.float32), pairs)


def attention_seconds(job: Job, layers: int) -> float:
    """Seconds of one token's attention over `layers` layers' caches, row end included."""
    c, fed = job.config, job.fed(1)
    shape = job.cache().keys[0].shape
    caches = tuple(tuple(jnp.full(shape, 0.1, job.dtype) for _ in "kv") for _ in range(layers))
    q, mask = jnp.ones((job.rows, fed, c.heads, c.head_dim)), jnp.ones((job.rows, fed, job.slots), bool)
    return _shortest(partial(_attention, kind=job.attention), q, caches, mask)


def _shortest(function: Callable, *arguments: Any) -> float:
    """Seconds of the shortest of `REPEATS` runs."""
    run = compiled(jax.jit(function).lower(*arguments))
    taken = []
    for _ in range(REPEATS + 1):  # the first one is a warm-up
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _pairs(job: Job) -> Pairs:
    c, bytes_each = job.config, 1 if job.quantize else jnp.dtype(job.dtype).itemsize
    count = max(1, min(c.layers, MOST // (2 * c.width * c.mlp_width * bytes_each)))
    shapes = (c.mlp_width, c.width), (c.width, c.mlp_width)

    def matrix(shape: tuple[int, int]) -> jax.Array | Int8:
        numbers = _numbers(shape, job.dtype)
        return quantised(numbers) if job.quantize else numbers

    return tuple(tuple(matrix(shape) for shape in shapes) for _ in range(count))


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _numbers(shape: tuple[int, int], dtype: DTypeLike) -> jax.Array:
    """[out, in], uniform around 0 with the variance 1/in: products keep the scale of their input."""
    golden = jnp.uint32(2654435769)  # 2^32 over the golden ratio: its multiples are evenly distributed
    steps = jax.lax.iota(jnp.uint32, math.prod(shape)) * golden
    unit = (steps >> 8).astype(jnp.float32) * 2**-24
    return ((unit - 0.5) * (12 / shape[1]) ** 0.5).astype(dtype).reshape(shape)


def _attention(q: jax.Array, caches: Pairs, mask: jax.Array, kind: str) -> jax.Array:
    for keys, values in caches:
        q = ATTENTIONS[kind](q, keys, values, mask, Products())
    return q


def _products(x: jax.Array, pairs: Pairs) -> jax.Array:
    linear = Products().linear
    for up, down in pairs:
        x = linear(linear(x, up), down)
    return x
