"""Counts the memory traffic of attention (`models.attention` has the implementations).

Both read the keys and values of all T slots, filled or not, and compute all scores, masked or not. A layer has G*N*W*T
scores (G rows of the CFG batch, N attention heads, W fed slots).

plain   queries are read; the first product writes scores, float32; one kernel reads them, masks them, takes the softmax
        and writes weights in the dtype of the values; the second product reads these. In bfloat16 that is
        4 + 4 + 2 + 2 = 12 bytes a score, in float32 16. Assumed fused, as XLA does: scaling, mask, softmax and
        rounding; without that it would be more. The result is float32. The mask, a byte for N scores, is not counted.
fused   queries are read, the result is written, both in the cache's dtype. Scores stay on the chip only with cuDNN
        (NVIDIA GPUs, 16-bit caches); elsewhere `jax.nn.dot_product_attention` is XLA's, which moves scores as above.
"""

import jax.numpy as jnp

from ssd_jax.parallel.mesh import device_bytes
from ssd_jax.plan.job import Job
from ssd_jax.plan.roofline import Work

SCORE = jnp.dtype(jnp.float32).itemsize
"""Bytes of a score, whatever the operands' dtype; also of the result of plain attention."""


def score_bytes(job: Job) -> int:
    """Bytes moved per score where scores are arrays: written and read once, and once more as a weight."""
    return 2 * SCORE + 2 * jnp.dtype(job.dtype).itemsize


def scores(job: Job, fed: int) -> float:
    """Bytes that one device moves for all layers' scores, where they are arrays."""
    return _queries(job, fed) * job.slots * score_bytes(job)


def attention(job: Job, fed: int) -> Work:
    """All layers' attention of a pass that is fed `fed` slots of every batch row, row ends included."""
    c, itemsize = job.config, jnp.dtype(job.dtype).itemsize
    fused = job.attention == "fused" and itemsize == 2  # if cuDNN is there
    queries, extra = _queries(job, fed), scores(job, fed)
    cache, result = device_bytes(job.cache()), SCORE if job.attention == "plain" else itemsize
    moved = cache + cache * fed / job.slots + queries * c.head_dim * (itemsize + result)
    return Work(
        attended=moved if fused else moved + extra,
        unfused=extra if fused else 0.0,
        flops=4 * queries * c.head_dim * job.slots,
    )


def beside(job: Job, inputs: int) -> Work:
    """All layers' attention of inputs beside a window whose attention is fused: it reads the cache once more, and its
    scores are arrays."""
    queries, c = _queries(job, inputs), job.config
    moved = device_bytes(job.cache()) + queries * c.head_dim * (jnp.dtype(job.dtype).itemsize + SCORE)
    return Work(attended=moved + scores(job, inputs), flops=4 * queries * c.head_dim * job.slots)


def _queries(job: Job, fed: int) -> float:
    """Query elements of all layers and attention heads on one device."""
    return job.rows // job.data * fed * job.config.layers * job.config.heads / job.model
