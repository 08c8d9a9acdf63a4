"""Measures what lower precision than float32 costs: decodes with `ar` in each, and scores the same images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.bench.quality import Task, measure_quality
from ssd_jax.decode.ar import AR
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.likelihood import token_nll
from ssd_jax.models.matmul import fast_dtype
from ssd_jax.pipeline.pipeline import Pipeline

FLOAT32 = "float32"

NOTE = "NLL is under the float32 model, that of float32's images under each model itself; differences are to float32."


def numerics(fast: str) -> dict[str, dict[str, Any]]:
    """Name -> options of `load`; `fast` is the dtype of the matrices that int8 does not quantise."""
    return {FLOAT32: dict(dtype=jnp.float32), "bfloat16": dict(dtype=jnp.bfloat16)} | {
        f"int8, {fast}": dict(dtype=jnp.dtype(fast), quantize="int8")
    }


def measure_numerics(
    load: Callable[..., Pipeline], task: Task
) -> tuple[Pipeline, dict[str, dict[str, Any]], list[str]]:
    """The float32 model, one dict of numbers for each of `numerics`, and notes.

    Args:
        load: loads the model with options.
        task: the images to decode.
    """
    pipes = {name: load(**options) for name, options in numerics(jnp.dtype(fast_dtype()).name).items()}
    exact = pipes[FLOAT32]
    painters = {name: (pipe, AR()) for name, pipe in pipes.items()}
    rows, notes, tokens = measure_quality(exact, painters, FLOAT32, task)
    read = {name: token_nll(pipe, task.prompts, tokens, batch=task.batch).mean(1) for name, pipe in pipes.items()}
    for name, pipe in pipes.items():
        rows[name] = {
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(pipe.params)),
            **rows[name],
            "cross nll": Estimate.mean(read[name], task.numbers),
            "cross nll difference": Estimate.mean(read[name] - read[FLOAT32], task.numbers),
        }
    return exact, rows, [*notes, NOTE]
