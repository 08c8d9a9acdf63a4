"""Compiles programs with XLA options that make them faster on a CPU, and their bits reproducible."""

import functools
from collections.abc import Mapping

import jax

CPU_OPTIONS: Mapping[str, str] = {
    # Of the library YNNPACK use only the products. XLA would also give it the sums of large arrays, not of small ones,
    # and it adds in another order: the same token would have other bits in another batch or window. In jax 0.10.2 some
    # of its sums are wrong (jax-ml/jax#39103).
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # This pass wraps bfloat16 operations in conversions, for processors that cannot compute with it: to write a window
    # it would convert the entire cache to float32 and back. Our programs only move and multiply bfloat16.
    "xla_disable_hlo_passes": "float-normalization-bf16",
}


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a lowered program with `options`."""
    return lowered.compile(compiler_options=dict(options()))


@functools.cache
def options() -> Mapping[str, str]:
    """The options for this machine: those of `CPU_OPTIONS` that jaxlib supports, none on accelerators."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in CPU_OPTIONS.items() if _knows({name: value})}


def _knows(option: dict[str, str]) -> bool:
    lowered = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((), "float32"))
    try:
        lowered.compile(compiler_options=option)
    except jax.errors.JaxRuntimeError:
        return False
    return True
