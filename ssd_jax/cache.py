"""The key/value cache: explicit, functional, one array per layer.

It lies as the attention that reads it wants it (`AXES`). "plain" has time in axis 2, so that its two products have
their batch axes (row, head) in front; with time in axis 1 the CPU backend transposes the whole cache in every pass.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.typing import DTypeLike

AXES = {
    "plain": ("batch", "kv_heads", "slot", "head_dim"),
    "fused": ("batch", "slot", "kv_heads", "head_dim"),
}
"""Axes of a layer's keys or values, by the implementation of attention that reads them."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer.

    Attributes:
        keys: L arrays with the axes B, K, T and H in the order of `AXES[attention]`; rotated.
        values: L arrays of the same shape; not rotated.
        attention: which implementation reads it (static).
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    attention: str = flax.struct.field(pytree_node=False, default="plain")

    @property
    def length(self) -> int:
        """T, the number of slots."""
        return self.keys[0].shape[AXES[self.attention].index("slot")]


def shape_of(rows: int, kv_heads: int, length: int, head_dim: int, attention: str = "plain") -> tuple[int, ...]:
    """The shape of a layer's keys or values."""
    sizes = {"batch": rows, "kv_heads": kv_heads, "slot": length, "head_dim": head_dim}
    return tuple(sizes[name] for name in AXES[attention])


def empty(
    layers: int,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    sharding: Sharding | None = None,
    attention: str = "plain",
) -> KVCache:
    """A cache of zeros with arrays of `shape` (see `shape_of`), placed by `sharding`; writes past T are dropped."""

    def zeros() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype, device=sharding) for _ in range(layers))

    return KVCache(zeros(), zeros(), attention)


def write(layer: jax.Array, window: jax.Array, slots: jax.Array, attention: str = "plain") -> jax.Array:
    """Puts a window into one layer's keys or values; slots past its end are dropped.

    Always written before it is attended to: attending first makes XLA copy the whole cache in every pass.

    Args:
        layer: its axes as `attention` wants them.
        window: [B, W, K, H].
        slots: int32 [B, W]; rows of the batch may be at different places.
        attention: which implementation reads the cache.
    """

    def write_row(row: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
        if attention == "plain":
            return row.at[:, slots].set(new.swapaxes(0, 1), mode="drop")
        return row.at[slots].set(new, mode="drop")

    # Mapped over rows, so that a cache whose rows are on several devices is written without talk between them.
    return jax.vmap(write_row)(layer, window.astype(layer.dtype), slots)
