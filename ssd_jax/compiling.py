"""How decoding programs are compiled: with options of XLA that make them faster on a CPU, and their bits steady."""

import functools
from collections.abc import Mapping

import jax

CPU_OPTIONS: Mapping[str, str] = {
    # Of the library YNNPACK the products alone. XLA hands it the sums of large arrays, too, but not of small ones, and
    # it adds in another order: the same token would have other bits in another batch or window. In jax 0.10.2 some of
    # its sums are wrong altogether (jax-ml/jax#39103).
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    # This pass wraps whatever touches bfloat16 in conversions, for processors that cannot compute with it: to write a
    # window it would convert the whole cache to float32 and back. Our programs only move bfloat16 and multiply it.
    "xla_disable_hlo_passes": "float-normalization-bf16",
}


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The compiled program of a lowered one."""
    return lowered.compile(compiler_options=dict(options()))


@functools.cache
def options() -> Mapping[str, str]:
    """The options for this machine: those of `CPU_OPTIONS` that its jaxlib knows, none on accelerators."""
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
