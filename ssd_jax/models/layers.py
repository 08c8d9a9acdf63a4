"""What the transformer's parts are made of: parameters, norms, rotary positions.

Parameters carry logical axis names; shardings are derived from them. Activations that a sharded program must have in a
certain place are constrained by the same names; on one device this does nothing.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.models.int8 import Int8, fetch
from ssd_jax.sampling.reductions import inverse_rms, total

ACTIVATION = ("batch", "window", "embed")
"""Axes of what goes from block to block, [B, W, D]."""


def whole(x: jax.Array) -> jax.Array:
    """x, on every device of a mesh: what belongs to images is not split as the model's rows are."""
    return nn.with_logical_constraint(x, (None,) * x.ndim)


def parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], scale: float
) -> jax.Array | Int8:
    """A normal-initialised parameter with logical axis names; `scale` is its standard deviation."""
    init = nn.with_logical_partitioning(nn.initializers.normal(scale), axes)
    return fetch(module, name, module.param(name, init, shape))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 (arXiv 1910.07467)."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (x.shape[-1],))
        y = x.astype(jnp.float32)
        return y * inverse_rms(y, self.eps) * scale.astype(jnp.float32)


class HeadNorm(nn.Module):
    """Layer normalisation of every head by itself, each with its own scale and bias, computed in float32.

    Source: Chameleon, arXiv 2405.09818, section 2.3 (QK-Norm); its epsilon is fixed.

    Attributes:
        axis: the logical name of the heads' axis.
    """

    axis: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., heads, H] -> the same."""
        axes, shape = (self.axis, "head_dim"), x.shape[-2:]
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, axes), shape)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, axes), shape)
        y = x.astype(jnp.float32)
        y = y - total(y) / y.shape[-1]
        y = y * inverse_rms(y, 1e-5)
        return y * scale.astype(jnp.float32) + bias.astype(jnp.float32)


QK_NORMS = {
    "": lambda config, axis, name: lambda x: x,
    "rms": lambda config, axis, name: RMSNorm(config.norm_eps, name=name),
    "layer": lambda config, axis, name: HeadNorm(axis, name=name),
}
"""`ModelConfig.qk_norm` -> what makes the normalisation."""


def rotary_angles(positions: jax.Array, length: int, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary embedding, float32 [B, W, 1, H/2] each (arXiv 2104.09864).

    They are looked up: written as functions of the positions they would be computed anew in every layer.

    Args:
        positions: int32 [B, W]; those of padding may be `length` or more.
        length: number of positions, known when traced.
        head_dim, theta: H and the base.
    """
    frequencies = (theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    cos, sin = (jnp.asarray(table(angles), jnp.float32) for table in (np.cos, np.sin))
    return tuple(table.at[positions[:, :, None]].get(mode="clip") for table in (cos, sin))


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates [B, W, heads, H] by half-split pairs (x_j, x_{j+H/2})."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
