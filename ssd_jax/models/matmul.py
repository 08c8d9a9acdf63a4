"""Matrix products, with the operand dtypes and shapes that are fast on each platform.

Weights are stored [out, in], as the models are published. Sums, results and all activations are float32. The operands
are bfloat16 where a weight, or the cache, is bfloat16, and float32 elsewhere: the dtype of the parameters decides. On
CPUs with bfloat16 instructions, and on GPUs and TPUs, bfloat16 operands halve the memory traffic and multiply faster.

With bfloat16 operands on a CPU, a row of a product has the same bits whatever rows stand beside it, if there are at
least `FEWEST` rows; a single row takes another path, ten times slower and with other bits. The bits of float32 products
depend on the number of rows.
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
"""Fewest rows of a product on a CPU with bfloat16 or int8 operands; fewer are padded."""

LARGE, FEWEST_OF_LARGE = 2**20, 6
"""From this many bfloat16 weights on, six rows take a tenth less time than four; the bits are the same."""


@dataclasses.dataclass(frozen=True)
class Products:
    """Products of float32 activations with weights and with each other.

    Attributes:
        rounded: also round operands to bfloat16 where both are float32: training with float32 weights.
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
            # On a CPU one float32 product of two or three rows takes longer than that many of one row.
            out = jnp.concatenate([self.einsum("mi,oi->mo", row[None], matrix) for row in rows])
        else:
            out = self.batched("mi,oi->mo", rows, matrix)
        return out.reshape(*x.shape[: x.ndim - inner], *outer)

    def batched(
        self, subscripts: str, rows: Float[Array, "... M in"], b: Float[Array, "..."]
    ) -> Float32[Array, "... M out"]:
        """An einsum whose first operand and result have independent rows in their last axis but one."""
        count = rows.shape[-2]
        if self._rounds(rows, b):
            rows = _enough(rows, FEWEST if b.size < LARGE else FEWEST_OF_LARGE)
        return self.einsum(subscripts, rows, b)[..., :count, :]

    def einsum(self, subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float32[Array, "..."]:
        """An einsum with float32 sums, also in its gradients. Every index of an operand must occur in the other operand
        or in the result."""
        if self._rounds(a, b):
            return _rounded(subscripts, (a.dtype, b.dtype), a, b)
        return jnp.einsum(subscripts, a.astype(jnp.float32), b.astype(jnp.float32))

    def _rounds(self, a: Float[Array, "..."], b: Float[Array, "..."]) -> bool:
        return self.rounded or jnp.bfloat16 in (a.dtype, b.dtype)


def _enough(rows: Float[Array, "*batch M in"], fewest: int = FEWEST) -> Float[Array, "*batch _ in"]:
    """On a CPU, pads with rows of zeros to at least `fewest` rows."""
    missing = fewest - rows.shape[-2]
    if missing <= 0 or jax.default_backend() != "cpu":
        return rows
    return jnp.pad(rows, (*((0, 0),) * (rows.ndim - 2), (0, missing), (0, 0)))


PRODUCTS = {"float32": Products(), "bfloat16": Products(rounded=True)}
"""Valid values of `matmul` in a training config, for float32 weights."""


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
    # Summed over the rows, of which a and the gradient each hold a matrix; the one with b's first index is transposed.
    left, right = (first, a), (out, gradient)
    if out[-1] == second[-2]:
        left, right = right, left
    indices = f"{left[0][:-2]}{left[0][-1]}{left[0][-2]},{right[0]}->{second}"
    to_b = jnp.einsum(indices, _transposed(left[1]), right[1], preferred_element_type=jnp.float32)
    return to_a.astype(dtypes[0]), to_b.astype(dtypes[1])


def _transposed(x: BFloat16[Array, "*batch M N"]) -> BFloat16[Array, "*batch N M"]:
    """The last two axes swapped, in memory. XLA would make a plain transposition part of the product that follows, and
    such a product of bfloat16 operands takes two to four times as long on a CPU; it leaves one alone that is split into
    four parts."""
    *batch, M, N = x.shape
    if M % 4 or jax.default_backend() != "cpu":
        return x.swapaxes(-1, -2)
    return jnp.moveaxis(x.reshape(*batch, 4, M // 4, N), -1, -3).reshape(*batch, N, M)


_rounded.defvjp(_forward, _backward)


def fast_dtype() -> DTypeLike:
    """The fastest dtype of parameters on this machine: float32 on CPUs that cannot multiply bfloat16, or where jaxlib
    lacks the options without which XLA would convert the cache; else bfloat16."""
    if jax.default_backend() != "cpu" or cpu_multiplies_bfloat16() and options().keys() == CPU_OPTIONS.keys():
        return jnp.bfloat16
    return jnp.float32


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products, according to Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def describe(dtype: DTypeLike, quantize: str = "") -> dict[str, str]:
    """What the bits of products depend on, for parameters of this dtype or quantised ones: for records."""
    bfloat16 = jnp.dtype(dtype) == jnp.bfloat16
    quantized = {"quantize": quantize} if quantize else {}
    return {
        "dtype": jnp.dtype(dtype).name,
        **quantized,
        "products": "bfloat16 operands, float32 sums" if bfloat16 else "float32",
        "XLA": " ".join(f"{name}={value}" for name, value in options().items()) or "no options",
    }
