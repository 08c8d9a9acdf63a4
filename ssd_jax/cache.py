"""The key/value cache: explicit, functional, one array per layer.

Time is axis 2, so that attention's two products have their batch axes (row, head) in front and read the cache as it
lies; with time in axis 1 the CPU backend transposes the whole cache in every pass.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Sharding


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer.

    Attributes:
        keys: L arrays [B, K, T, H], rotated.
        values: L arrays [B, K, T, H].
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    @property
    def length(self) -> int:
        """T, the number of slots."""
        return self.keys[0].shape[2]


def empty(layers: int, shape: tuple[int, int, int, int], dtype: jnp.dtype, sharding: Sharding | None = None) -> KVCache:
    """A cache of zeros with arrays of `shape` [B, K, T, H], placed by `sharding`; writes past T are dropped."""

    def zeros() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype, device=sharding) for _ in range(layers))

    return KVCache(keys=zeros(), values=zeros())


def write(layer: jax.Array, window: jax.Array, slots: jax.Array) -> jax.Array:
    """Puts a window into one layer's keys or values; slots outside the cache are dropped.

    Always written before it is attended to: attending first makes XLA copy the whole cache in every pass.

    Args:
        layer: [B, K, T, H].
        window: [B, W, K, H].
        slots: int32 [B, W]; rows of the batch may be at different places.
    """

    def write_row(row: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
        return row.at[:, slots].set(new.swapaxes(0, 1), mode="drop")

    # Mapped over rows, so that a cache whose rows are on several devices is written without talk between them.
    return jax.vmap(write_row)(layer, window.astype(layer.dtype), slots)
