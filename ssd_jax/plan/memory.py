"""Computes the memory that a decode needs on one device."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssd_jax.decode.base import Decoder
from ssd_jax.decode.engine import decode
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.decode.presets import require_fits, require_heads
from ssd_jax.errors import UserError
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.parallel.mesh import DATA, MODEL, device_bytes, make_mesh, using
from ssd_jax.pipeline.images import at_once, to_pixels
from ssd_jax.plan.chips import Chip
from ssd_jax.plan.job import Job
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.distribution import Sampler
from ssd_jax.sampling.noise import image_keys

UNOPTIMISED = {"xla_backend_optimization_level": 0}
"""The machine code is never run, and the memory of arrays does not depend on it."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the first device, which holds the image tokenizer and its shard of the rest.

    Attributes:
        weights, heads, branch, tokenizer: parameters of the backbone, of the draft heads and of the vertical branch, if
            the decoder uses them, and of the image tokenizer.
        cache: keys and values.
        logits: logits of the widest pass, float32, a part of `temporaries`.
        temporaries: other memory of the compiled decode.
        pixels: memory in which the image tokenizer turns codes into images, after the cache is freed.
    """

    weights: int
    heads: int
    branch: int
    tokenizer: int
    cache: int
    logits: int
    temporaries: int
    pixels: int

    @property
    def exact(self) -> int:
        """The part that is known from shapes: parameters and cache."""
        return self.weights + self.heads + self.branch + self.tokenizer + self.cache

    @property
    def total(self) -> int:
        """The peak; an upper bound, as the bounds of scratch memory are."""
        return self.exact - self.cache + max(self.cache + self.temporaries, self.pixels)


class Scratch(NamedTuple):
    """Bytes that the compiled programs need beyond their arguments: `Memory.temporaries` and `Memory.pixels`."""

    temporaries: int
    pixels: int


def memory(job: Job, decoder: Decoder, scratch: Scratch) -> Memory:
    """The memory of a job; for `scratch` see the function of that name."""
    stretches = job.as_run(decoder).stretches(job.grid, job.heads.horizontal)
    outputs = max(max(s.outputs, s.sources * (s.horizontal + s.vertical)) for s in stretches)
    return Memory(
        weights=device_bytes(job.backbone()),
        heads=device_bytes(job.drafters()) if any(decoder.heads) else 0,
        branch=device_bytes(job.below()) if decoder.branch else 0,
        tokenizer=device_bytes(job.tokenizer()),
        cache=device_bytes(job.cache(branch_layers=decoder.branch * job.head_counts.branch_layers)),
        logits=job.rows * outputs * job.config.visual_size * 4,
        temporaries=scratch.temporaries,
        pixels=scratch.pixels,
    )


def compiled(job: Job, decoder: Decoder, mesh: Mesh | None = None) -> jax.stages.Compiled:
    """The complete decode program, prefill and loop, compiled from shapes without weights.

    Args:
        job: sizes and dtype.
        decoder: the decoder to compile.
        mesh: the job's mesh with devices, which may be simulated; None is the default device.
    Raises:
        UserError: the decoder needs more draft heads than the job has, a vertical branch, or a larger image.
    """
    require_heads(decoder, *job.head_counts)
    require_fits(decoder, job.grid)
    decoder = job.as_run(decoder)
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        # Without a mesh, remove the abstract one, which has no devices to compile for.
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=None if mesh is None else leaf.sharding)

    def make() -> tuple:
        ids = jnp.zeros((job.rows, job.prompt), jnp.int32)
        keys = image_keys(jnp.zeros(job.images, jnp.uint32), jnp.zeros(job.images, jnp.int32))
        sampler = Sampler(jnp.float32(1), jnp.float32(1), jnp.int32(1), jnp.float32(1))
        return PromptBatch(ids, ids == 0, job.guided), Draw(keys, sampler)

    image_level = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(make))
    drafts = any(decoder.heads)
    heads = (job.heads, jax.tree.map(placed, job.drafters(mesh))) if drafts else (None, None)
    branch = (job.branch, jax.tree.map(placed, job.below(mesh))) if decoder.branch else (None, None)
    model = LoadedModel.of(job.config, jax.tree.map(placed, job.backbone(mesh)), *heads, *branch)
    cache = jax.tree.map(placed, job.cache(mesh, decoder.branch * job.head_counts.branch_layers))
    with using(mesh, job.config):
        lowered = decode.lower(model, cache, *image_level, decoder=decoder, grid=job.grid)
        return lowered.compile(compiler_options=UNOPTIMISED)


def scratch(job: Job, decoder: Decoder) -> Scratch:
    """An upper bound of the programs' scratch memory on each device; devices may be simulated.

    The decode is compiled in float32: a bfloat16 program for a CPU that cannot multiply it holds float32 copies of all
    weights, which an accelerator does not make. Activations are float32 in both.
    """
    mesh = make_mesh({DATA: job.data, MODEL: job.model}) if job.devices > 1 else None
    drawn = compiled(dataclasses.replace(job, dtype=jnp.float32), decoder, mesh)
    together = min(job.images, at_once(job.vq, job.grid.rows * job.vq.stride, job.grid.cols * job.vq.stride))
    codes = jax.ShapeDtypeStruct((together, job.grid.rows, job.grid.cols), jnp.int32)
    pixels = to_pixels.lower(job.tokenizer(), codes, config=job.vq).compile(compiler_options=UNOPTIMISED)
    return Scratch(*(program.memory_analysis().temp_size_in_bytes for program in (drawn, pixels)))


def smallest_mesh(job: Job, decoder: Decoder, scratch: Scratch, chip: Chip) -> int | None:
    """The smallest `model` axis with which the job fits the chip, all else unchanged; None if there is none."""
    for parts in range(1, job.config.heads + 1):
        try:
            split = dataclasses.replace(job, model=parts)
        except UserError:  # does not divide
            continue
        if memory(split, decoder, scratch).total <= chip.memory:
            return parts
    return None
