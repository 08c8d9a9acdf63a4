"""Building blocks of the transformer: parameters with logical axis names, norms, rotary positions.

Shardings are derived from the axis names. Activations that need a certain sharding are constrained by the same names;
on one device this does nothing.
"""

from typing import cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Shaped

from ssd_jax.models.int8 import Int8, fetch
from ssd_jax.sampling.reductions import inverse_rms, total

ACTIVATION = ("batch", "window", "embed")
"""Axis names of the activations between blocks, [B, W, D]."""

Angles = tuple[Float32[Array, "B W 1 half"], Float32[Array, "B W 1 half"]]
"""Cosines and sines of the rotary embedding, for H/2 angles."""


def replicated(x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
    """x, replicated on every device of a mesh: arrays of images are not sharded as the CFG batch is."""
    return nn.with_logical_constraint(x, (None,) * x.ndim)


def named(
    module: nn.Module, name: str, init: nn.initializers.Initializer, axes: tuple[str, ...], shape: tuple[int, ...]
) -> Array:
    """A parameter with logical axis names."""
    # flax unboxes it, which the type of `param` does not show.
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], scale: float
) -> Array | Int8:
    """A normal-initialised matrix with logical axis names; `scale` is its standard deviation."""
    return fetch(module, name, named(module, name, nn.initializers.normal(scale), axes, shape))


def along_last(vector: Shaped[Array, "..."], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """An array of fewer axes, such as a scale or a bias, with leading axes of 1 up to the number that x has."""
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 (arXiv 1910.07467)."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*axes"]) -> Float32[Array, "*axes"]:
        scale = named(self, "scale", nn.initializers.ones, ("norm",), (x.shape[-1],))
        y = x.astype(jnp.float32)
        return y * inverse_rms(y, self.eps) * along_last(scale.astype(jnp.float32), y)


class HeadNorm(nn.Module):
    """Layer normalisation per attention head, each with its own scale and bias, computed in float32.

    Source: Chameleon, arXiv 2405.09818, section 2.3 (QK-Norm); its epsilon is fixed.

    Attributes:
        axis: logical name of the attention heads' axis.
    """

    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "*axes heads H"]) -> Float32[Array, "*axes heads H"]:
        axes, shape = (self.axis, "head_dim"), x.shape[-2:]
        scale = named(self, "scale", nn.initializers.ones, axes, shape)
        bias = named(self, "bias", nn.initializers.zeros, axes, shape)
        y = x.astype(jnp.float32)
        y = y - total(y) / y.shape[-1]
        y = y * inverse_rms(y, 1e-5)
        scale, bias = (along_last(vector.astype(jnp.float32), y) for vector in (scale, bias))
        return y * scale + bias


QK_NORMS = {
    "": lambda config, axis, name: lambda x: x,
    "rms": lambda config, axis, name: RMSNorm(config.norm_eps, name=name),
    "layer": lambda config, axis, name: HeadNorm(axis, name=name),
}
"""`ModelConfig.qk_norm` -> constructor of the normalisation."""


def rotary_angles(positions: Int32[Array, "B W"], length: int, head_dim: int, theta: float) -> Angles:
    """Cosines and sines of the rotary embedding (arXiv 2104.09864).

    Looked up in a table: as functions of the positions they would be recomputed in every layer.

    Args:
        positions: rotary positions; those of padding may be `length` or more.
        length: number of positions (static).
        head_dim, theta: H and the base.
    """
    frequencies = (theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    cos, sin = (jnp.asarray(table(angles), jnp.float32) for table in (np.cos, np.sin))
    cos, sin = (table.at[positions[:, :, None]].get(mode="clip") for table in (cos, sin))
    return cos, sin


def rotate(x: Float[Array, "B W heads H"], angles: Angles) -> Float[Array, "B W heads H"]:
    """Rotates every attention head by half-split pairs (x_j, x_{j+H/2})."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
