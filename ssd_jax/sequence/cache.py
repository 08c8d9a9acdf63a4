"""The key/value cache: an explicit pytree with one array of keys and one of values per layer.

The axis order depends on the attention implementation that reads the cache (`AXES`). "plain" keeps the slots in axis 2,
so that the batch axes of its two products (batch row, head) come first; with the slots in axis 1 the CPU backend
transposes the whole cache in every pass.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

AXES = {
    "plain": ("batch", "kv_heads", "slot", "head_dim"),
    "fused": ("batch", "slot", "kv_heads", "head_dim"),
}
"""Axis order of a layer's keys or values, by attention implementation."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer; the leaves are arrays, or shapes or shardings in place of arrays.

    Attributes:
        keys: L arrays with the axes B, K, T and H in the order of `AXES[attention]`; rotated.
        values: L arrays of the same shape; not rotated.
        attention: the attention implementation that reads the cache (static).
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    attention: str = flax.struct.field(pytree_node=False, default="plain")

    def replaced(self, first: int, layers: Sequence[tuple[Any, Any]]) -> "KVCache":
        """The cache with other keys and values in some layers, from `first` on."""
        stop = first + len(layers)
        keys = (*self.keys[:first], *(layer[0] for layer in layers), *self.keys[stop:])
        values = (*self.values[:first], *(layer[1] for layer in layers), *self.values[stop:])
        return KVCache(keys, values, self.attention)

    @property
    def length(self) -> int:
        """T, the number of slots."""
        return self.keys[0].shape[AXES[self.attention].index("slot")]


@dataclasses.dataclass(frozen=True)
class CacheSpec:
    """Shape and dtype of a cache, from which `zeros` and `abstract` build one, sharded or not.

    Attributes:
        layers, rows, kv_heads, length, head_dim: L, batch rows (the CFG batch), K, T, H.
        dtype: of keys and values.
        attention: the attention implementation that reads the cache.
    """

    layers: int
    rows: int
    kv_heads: int
    length: int
    head_dim: int
    dtype: DTypeLike
    attention: str = "plain"

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis names of a layer's keys or values."""
        return AXES[self.attention]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a layer's keys or values."""
        sizes = {"batch": self.rows, "kv_heads": self.kv_heads, "slot": self.length, "head_dim": self.head_dim}
        return tuple(sizes[name] for name in self.axes)

    def zeros(self, sharding: Sharding | None = None) -> KVCache:
        """A cache of zeros whose layers have this sharding; writes past T are dropped."""
        return self._made(lambda: jnp.zeros(self.shape, self.dtype, device=sharding))

    def abstract(self, sharding: Sharding | None = None) -> KVCache:
        """The cache as `jax.ShapeDtypeStruct`s."""
        return self._made(lambda: jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=sharding))

    def _made(self, layer: Callable[[], Any]) -> KVCache:
        keys, values = (tuple(layer() for _ in range(self.layers)) for _ in range(2))
        return KVCache(keys, values, self.attention)


def write(
    layer: Float[Array, "B X Y H"],
    window: Float[Array | np.ndarray, "B W K H"],
    slots: Int32[Array, "B W"],
    attention: str = "plain",
) -> Float[Array, "B X Y H"]:
    """Writes a window into one layer's keys or values; slots past the end of the cache are dropped.

    Always write before attending: attending first makes XLA copy the whole cache in every pass.

    Args:
        layer: X and Y are K and T in the axis order of `attention`.
        window: the new keys or values.
        slots: their cache slots; these may differ between batch rows.
        attention: the attention implementation that reads the cache.
    """

    def write_row(
        row: Float[Array, "X Y H"], new: Float[Array | np.ndarray, "W K H"], slots: Int32[Array, " W"]
    ) -> Float[Array, "X Y H"]:
        if attention == "plain":
            return row.at[:, slots].set(new.swapaxes(0, 1), mode="drop")
        return row.at[slots].set(new, mode="drop")

    # vmap over batch rows: a cache whose batch is sharded is then written without communication between devices.
    return jax.vmap(write_row)(layer, window.astype(layer.dtype), slots)
