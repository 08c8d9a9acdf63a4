"""The key/value cache: explicit, functional, one array per layer.

It lies as the attention that reads it wants it (`AXES`). "plain" has time in axis 2, so that its two products have
their batch axes (row, head) in front; with time in axis 1 the CPU backend transposes the whole cache in every pass.
"""

import dataclasses
from collections.abc import Callable
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
"""Axes of a layer's keys or values, by the implementation of attention that reads them."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer: arrays, or their shapes or shardings in their places.

    Attributes:
        keys: L arrays with the axes B, K, T and H in the order of `AXES[attention]`; rotated.
        values: L arrays of the same shape; not rotated.
        attention: which implementation reads it (static).
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    attention: str = flax.struct.field(pytree_node=False, default="plain")

    @property
    def length(self) -> int:
        """T, the number of slots."""
        return self.keys[0].shape[AXES[self.attention].index("slot")]


@dataclasses.dataclass(frozen=True)
class CacheSpec:
    """What a cache is, before there is one: a real, an abstract and a sharded one are made from this.

    Attributes:
        layers, rows, kv_heads, length, head_dim: L, batch rows (guidance included), K, T, H.
        dtype: of keys and values.
        attention: which implementation reads it.
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
        """Names of the axes of a layer's keys or values."""
        return AXES[self.attention]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a layer's keys or values."""
        sizes = {"batch": self.rows, "kv_heads": self.kv_heads, "slot": self.length, "head_dim": self.head_dim}
        return tuple(sizes[name] for name in self.axes)

    def zeros(self, sharding: Sharding | None = None) -> KVCache:
        """An empty cache, its layers placed by `sharding`; writes past T are dropped."""
        return self._made(lambda: jnp.zeros(self.shape, self.dtype, device=sharding))

    def abstract(self, sharding: Sharding | None = None) -> KVCache:
        """Shapes alone."""
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
    """Puts a window into one layer's keys or values; slots past its end are dropped.

    Always written before it is attended to: attending first makes XLA copy the whole cache in every pass.

    Args:
        layer: X and Y are K and T in the order that `attention` wants.
        window: what is put there.
        slots: where; rows of the batch may be at different places.
        attention: which implementation reads the cache.
    """

    def write_row(
        row: Float[Array, "X Y H"], new: Float[Array | np.ndarray, "W K H"], slots: Int32[Array, " W"]
    ) -> Float[Array, "X Y H"]:
        if attention == "plain":
            return row.at[:, slots].set(new.swapaxes(0, 1), mode="drop")
        return row.at[slots].set(new, mode="drop")

    # Mapped over rows, so that a cache whose rows are on several devices is written without talk between them.
    return jax.vmap(write_row)(layer, window.astype(layer.dtype), slots)
