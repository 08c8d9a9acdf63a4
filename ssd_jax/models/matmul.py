"""How matrices are multiplied: the one place that knows what a platform is good at.

Weights are stored [out, in], as the models are published. Sums, results and all activations are float32. The operands
are bfloat16 where a weight, or the cache, is bfloat16, and float32 elsewhere, so the dtype of the parameters decides.
On CPUs with instructions for bfloat16, and on GPUs and TPUs, the former read half as much and multiply faster.

With bfloat16 operands a CPU gives a row of a product the same bits whatever rows stand beside it, if there are at least
`FEWEST` of them; a single row takes another path, ten times slower and with other bits. Float32 products have other
bits for other numbers of rows.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, BFloat16, Float, Float32

from ssd_jax.compiling import CPU_OPTIONS, options
from ssd_jax.models.int8 import Int8, multiply

FEWEST = 4
"""Rows that a product on a CPU has at least where its operands are bfloat16 or int8; fewer are padded."""

LARGE, FEWEST_OF_LARGE = 2**20, 6
"""With bfloat16 weights of so many numbers six rows take a tenth less time than four; the bits are the same."""


@dataclasses.dataclass(frozen=True)
class Products:
    """Products of float32 activations with weights, and with each other.

    Attributes:
        rounded: round operands to bfloat16 where both are float32, too: training with float32 weights.
    """

    rounded: bool = False

    def linear(
        self, x: Float[Array, "..."], weight: Float[Array, "..."] | Int8, inner: int = 1
    ) -> Float32[Array, "..."]:
        """x times a weight: [..., in] and [out..., in] -> [..., out...]; the last `inner` axes are `in`."""
        outer, contracted = weight.shape[:-inner], weight.shape[-inner:]
        rows = x.reshape(-1, math.prod(contracted))
        if isinstance(weight, Int8):
            matrix = Int8(weight.values.reshape(math.prod(outer), -1), weight.scale.reshape(-1))
            out = multiply(_enough(rows), matrix)[: rows.shape[0]]
            return out.reshape(*x.shape[: x.ndim - inner], *outer)
        matrix = weight.reshape(math.prod(outer), -1)
        if 1 < rows.shape[0] < FEWEST and jax.default_backend() == "cpu" and not self._rounds(x, weight):
            # There a float32 product of two or three rows takes longer than as many of one row.
            out = jnp.concatenate([self.einsum("mi,oi->mo", row[None], matrix) for row in rows])
        else:
            out = self.batched("mi,oi->mo", rows, matrix)
        return out.reshape(*x.shape[: x.ndim - inner], *outer)

    def batched(
        self, subscripts: str, rows: Float[Array, "... M in"], b: Float[Array, "..."]
    ) -> Float32[Array, "... M out"]:
        """An einsum whose first operand and result have, in their last axis but one, rows that are independent."""
        count = rows.shape[-2]
        if self._rounds(rows, b):
            rows = _enough(rows, FEWEST if b.size < LARGE else FEWEST_OF_LARGE)
        return self.einsum(subscripts, rows, b)[..., :count, :]

    def einsum(self, subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float32[Array, "..."]:
        """An einsum with float32 sums, in its gradients too. Every index of an operand must occur in the other one or
        in the result."""
        if self._rounds(a, b):
            return _rounded(subscripts, (a.dtype, b.dtype), a, b)
        return jnp.einsum(subscripts, a.astype(jnp.float32), b.astype(jnp.float32))

    def _rounds(self, a: Float[Array, "..."], b: Float[Array, "..."]) -> bool:
        return self.rounded or jnp.bfloat16 in (a.dtype, b.dtype)


def _enough(rows: Float[Array, "*batch M in"], fewest: int = FEWEST) -> Float[Array, "*batch _ in"]:
    """With zeros as further rows if there are fewer than `fewest`, on a CPU."""
    missing = fewest - rows.shape[-2]
    if missing <= 0 or jax.default_backend() != "cpu":
        return rows
    return jnp.pad(rows, (*((0, 0),) * (rows.ndim - 2), (0, missing), (0, 0)))


PRODUCTS = {"float32": Products(), "bfloat16": Products(rounded=True)}
"""What a training config's `matmul` may say, of float32 weights."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(subscripts: str, dtypes: tuple, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float32[Array, "..."]:
    return _forward(subscripts, dtypes, a, b)[0]


def _forward(
    subscripts: str, dtypes: tuple, a: Float[Array, "*a"], b: Float[Array, "*b"]
) -> tuple[Float32[Array, "..."], tuple[BFloat16[Array, "*a"], BFloat16[Array, "*b"]]]:
    del dtypes
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32), (a, b)


def _backward(
    subscripts: str,
    dtypes: tuple,
    operands: tuple[BFloat16[Array, "*a"], BFloat16[Array, "*b"]],
    gradient: Float32[Array, "..."],
) -> tuple[Float[Array, "*a"], Float[Array, "*b"]]:
    a, b = operands
    inputs, out = subscripts.split("->")
    first, second = inputs.split(",")
    gradient = gradient.astype(jnp.bfloat16)
    to_a = jnp.einsum(f"{out},{second}->{first}", gradient, b, preferred_element_type=jnp.float32)
    to_b = jnp.einsum(f"{first},{out}->{second}", a, gradient, preferred_element_type=jnp.float32)
    return to_a.astype(dtypes[0]), to_b.astype(dtypes[1])


_rounded.defvjp(_forward, _backward)


def fast_dtype() -> DTypeLike:
    """The dtype of parameters with which this machine is fast: float32 on CPUs that cannot multiply bfloat16, or where
    jaxlib lacks the options without which XLA would convert the cache."""
    if jax.default_backend() != "cpu" or cpu_multiplies_bfloat16() and options().keys() == CPU_OPTIONS.keys():
        return jnp.bfloat16
    return jnp.float32


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, as far as Linux tells."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def describe(dtype: DTypeLike, quantize: str = "") -> dict[str, str]:
    """For records: what the bits of products with parameters of this dtype, or quantised ones, depend on."""
    bfloat16 = jnp.dtype(dtype) == jnp.bfloat16
    quantized = {"quantize": quantize} if quantize else {}
    return {
        "dtype": jnp.dtype(dtype).name,
        **quantized,
        "products": "bfloat16 operands, float32 sums" if bfloat16 else "float32",
        "XLA": " ".join(f"{name}={value}" for name, value in options().items()) or "no options",
    }
