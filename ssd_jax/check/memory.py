"""How much memory a comparison takes, asked before anything is read."""

import dataclasses

import jax
import jax.numpy as jnp

from ssd_jax.check.folder import Found
from ssd_jax.check.ours import like
from ssd_jax.check.task import Task
from ssd_jax.errors import UserError
from ssd_jax.parallel.mesh import device_bytes
from ssd_jax.pipeline.free_memory import free_bytes, free_host_bytes, gigabytes

OWN = 1_000_000_000
"""Bytes of each side beside the backbone's weights: the libraries themselves, the image tokenizer and what goes from
layer to layer. That of Emu3 alone has 1.1 GB in float32, when the backbone is gone."""


def require_memory(found: Found, reference: Found, task: Task) -> str:
    """A sentence about what is needed; the two sides run one after the other.

    Raises:
        UserError: it is more than is free; the sentence has the options with which it would fit.
    """
    sides = {"transformers": (_theirs(reference, task), free_host_bytes()), "ssd_jax": (_ours(found, task), _free())}
    said = ", then ".join(f"{name} about {gigabytes(needed)}" for name, (needed, _) in sides.items())
    for name, (needed, free) in sides.items():
        if free is not None and needed > free:
            raise UserError(
                f"The comparison does not fit in memory: {name} needs about {gigabytes(needed)}, and {gigabytes(free)} "
                f"are free; {_advice(found, reference, task)}."
            )
    free = sides["transformers"][1]
    return f"{said}, not at once" + ("" if free is None else f"; {gigabytes(free)} are free")


def _theirs(reference: Found, task: Task) -> int:
    """All tensors of the folder in the task's dtype, those included that drawing does not need."""
    return reference.numbers(task.layers) * jnp.dtype(task.dtype).itemsize + OWN


def _ours(found: Found, task: Task) -> int:
    return device_bytes(like(found, task)) + OWN


def _free() -> int | None:
    return free_host_bytes() if jax.default_backend() == "cpu" else free_bytes()


def _advice(found: Found, reference: Found, task: Task) -> str:
    """Which options fit: the other dtype, or as many layers as possible."""

    def fits(task: Task) -> bool:
        needed = (_theirs(reference, task), free_host_bytes()), (_ours(found, task), _free())
        return all(free is None or size <= free for size, free in needed)

    if task.dtype == "float32" and fits(dataclasses.replace(task, dtype="bfloat16")):
        half = "--dtype=bfloat16 would fit, with wider bounds, and "
    else:
        half = ""
    layers = next((n for n in range(task.layers - 1, 0, -1) if fits(dataclasses.replace(task, layers=n))), 0)
    return half + (f"--layers={layers} would compare the first {layers} layers" if layers else "no layer would fit")
