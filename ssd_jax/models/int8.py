"""Int8 weights: half the memory of bfloat16, and half the memory traffic of a pass over few tokens.

A weight is int8 with one scale per output, w = scale * values. In a product, each row of the activations is rounded to
int8 with its own scale, and the integers are summed exactly in any order: a row has the same bits whatever other rows
stand beside it and, as far as this product goes, on any mesh (LLM.int8(), arXiv 2208.07339, vector-wise quantisation,
here without outliers). In a tree of parameters the scale of `q` is stored beside it as `q_scale`.

The matrices of the blocks, the vertical branch's included, and of the draft heads are quantised; embeddings, output
head, norms and image tokenizer are not.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from ssd_jax.sampling.reductions import largest

NAMES = {
    "attention": ("q", "k", "v", "o"),
    "mlp": ("gate", "up", "down"),
    "": ("w0", "gate", "up", "down", "see", "use"),
}
"""Names of the quantised matrices, by module; "" stands for the draft heads."""

INNER = {"o": 2}
"""How many trailing axes of a matrix are inputs; 1 for all others."""

SUFFIX = "_scale"
"""Suffix of a matrix's name that gives the name of its scale."""

LARGEST = 127


class Int8(NamedTuple):
    """A quantised weight.

    Attributes:
        values: int8 [out..., in...].
        scale: float32 [out...].
    """

    values: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.values.shape

    def __getitem__(self, index: int) -> "Int8":  # type: ignore[override]  # of a tuple it would be a field
        """One weight of a stack along axis 0."""
        return Int8(self.values[index], self.scale[index])


def fetch(module: nn.Module, name: str, weight: Array) -> Array | Int8:
    """A module's parameter `name`, as `Int8` with its scale if it is quantised."""
    if module.has_variable("params", name + SUFFIX):
        return Int8(weight, module.get_variable("params", name + SUFFIX))
    return weight


@partial(jax.jit, static_argnames="inner")
def quantised(weight: Float[Array, "..."], inner: int = 1) -> Int8:
    """Quantises a weight [out..., in...], whose last `inner` axes are inputs, to 255 steps."""
    axes = tuple(range(weight.ndim - inner, weight.ndim))
    weight = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(weight), axis=axes) / LARGEST
    return Int8(_steps(weight, jnp.expand_dims(scale, axes)), scale)


def quantised_leaf(name: str, weight: Float[Array, "..."]) -> Int8:
    """Quantises the weight of a flat name over its input axes."""
    return quantised(weight, INNER.get(name.split(".")[-1], 1))


def multiply(rows: Float32[Array, "M in"], weight: Int8) -> Float32[Array, "M out"]:
    """Rows times a weight [out, in]."""
    scale = largest(jnp.abs(rows)) / LARGEST
    contracted = (((1,), (1,)), ((), ()))
    sums = jax.lax.dot_general(_steps(rows, scale), weight.values, contracted, preferred_element_type=jnp.int32)
    return sums.astype(jnp.float32) * scale * weight.scale[None]


def _steps(x: Float32[Array, "*axes"], scale: Float32[Array, "*#axes"]) -> Int[Array, "*axes"]:
    return jnp.round(x / jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)).astype(jnp.int8)


def quantised_boxes(boxed: Any) -> Any:
    """Boxed abstract parameters after quantisation: int8 matrices, and their scales."""
    flat: dict[tuple[str, ...], Any] = {}
    for path, box in cast(dict[tuple[str, ...], Any], traverse_util.flatten_dict(boxed)).items():
        flat[path] = box
        if not is_quantised(path):
            continue
        outer = box.value.ndim - INNER.get(path[-1], 1)
        flat[path] = box.replace_boxed(jax.ShapeDtypeStruct(box.value.shape, jnp.int8))
        scale = jax.ShapeDtypeStruct(box.value.shape[:outer], jnp.float32)
        flat[(*path[:-1], path[-1] + SUFFIX)] = nn.LogicallyPartitioned(scale, box.names[:outer])
    return traverse_util.unflatten_dict(flat)


def is_quantised(path: tuple[str, ...]) -> bool:
    """Whether a parameter is to be quantised, by its path, which starts with "params"."""
    return path[-1] in NAMES.get(path[-2] if len(path) > 2 else "", ())


def scales(leaves: Mapping[str, Any]) -> set[str]:
    """The flat names that are scales, which no file has."""
    return {name for name in leaves if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in leaves}


def with_dtype(like: Any, dtype: DTypeLike) -> Any:
    """Abstract parameters with another dtype; int8 stays int8, and scales stay float32."""

    def changed(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
        fixed = leaf.dtype == jnp.int8 or str(path[-1].key).endswith(SUFFIX)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if fixed else dtype, sharding=leaf.sharding)

    return jax.tree.map_with_path(changed, like)
