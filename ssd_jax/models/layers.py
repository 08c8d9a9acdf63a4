"""The transformer's parts. Parameters carry logical axis names; shardings are derived from them.

Activations that a sharded program must have in a certain place are constrained by the same names; on one device this
does nothing.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax import cache
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.products import Product

MASKED = -1e30
"""A finite score for what may not be seen: a row of the softmax never becomes NaN."""

LayerCache = tuple[jax.Array, jax.Array]

ACTIVATION = ("batch", "window", "embed")
"""Axes of what goes from block to block, [B, W, D]."""

CACHED = ("batch", "kv_heads", "slot", "head_dim")
"""Axes of a layer's keys or values, [B, K, T, H]."""


def whole(x: jax.Array) -> jax.Array:
    """x, on every device of a mesh: what belongs to images is not split as the model's rows are."""
    return nn.with_logical_constraint(x, (None,) * x.ndim)


def parameter(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], scale: float) -> jax.Array:
    """A normal-initialised parameter with logical axis names; `scale` is its standard deviation."""
    init = nn.with_logical_partitioning(nn.initializers.normal(scale), axes)
    return module.param(name, init, shape)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 (arXiv 1910.07467)."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * scale.astype(x.dtype)  # the published models round before they scale


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
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-5)
        return y.astype(x.dtype) * scale.astype(x.dtype) + bias.astype(x.dtype)


QK_NORMS = {
    "": lambda config, axis, name: lambda x: x,
    "rms": lambda config, axis, name: RMSNorm(config.norm_eps, name=name),
    "layer": lambda config, axis, name: HeadNorm(axis, name=name),
}
"""`ModelConfig.qk_norm` -> what makes the normalisation."""


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary embedding, float32 [B, W, 1, H/2] each (arXiv 2104.09864)."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates [B, W, heads, H] by half-split pairs (x_j, x_{j+H/2})."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, over a cache or over the window itself."""

    config: ModelConfig
    product: Product = jnp.einsum

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        mask: jax.Array,
        slots: jax.Array | None,
        layer: LayerCache | None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """x [B, W, D], mask bool [B, W, T] -> ([B, W, D], the layer's cache with the window written in)."""
        c = self.config
        D, N, K, H = c.width, c.heads, c.kv_heads, c.head_dim
        scale = D**-0.5
        wq = parameter(self, "q", (D, N, H), ("embed", "heads", "head_dim"), scale)
        wk = parameter(self, "k", (D, K, H), ("embed", "kv_heads", "head_dim"), scale)
        wv = parameter(self, "v", (D, K, H), ("embed", "kv_heads", "head_dim"), scale)
        wo = parameter(self, "o", (N, H, D), ("heads", "head_dim", "embed"), (N * H * 2 * c.layers) ** -0.5)
        q = self.product("bwd,dnh->bwnh", x, wq)
        k = self.product("bwd,dkh->bwkh", x, wk)
        v = self.product("bwd,dkh->bwkh", x, wv)
        normalise = QK_NORMS[c.qk_norm]
        q, k = normalise(c, "heads", "q_norm")(q), normalise(c, "kv_heads", "k_norm")(k)
        q, k = rotate(q, angles), rotate(k, angles)
        if layer is None:
            keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
        else:
            written = (cache.write(before, new, slots) for before, new in zip(layer, (k, v), strict=True))
            keys, values = layer = tuple(nn.with_logical_constraint(x, CACHED) for x in written)
        return self.product("bwnh,nhd->bwd", attend(q, keys, values, mask, self.product), wo), layer


def attend(
    q: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, product: Product = jnp.einsum
) -> jax.Array:
    """Masked softmax attention: q [B, W, N, H], keys and values [B, K, T, H], mask [B, W, T] -> [B, W, N, H]."""
    B, W, N, H = q.shape
    K = keys.shape[1]
    # Query heads of one key/value head and the window form the rows of one matrix product.
    rows = q.reshape(B, W, K, N // K, H).transpose(0, 2, 3, 1, 4) * H**-0.5
    if keys.shape[2] > W:
        # A cache goes first: as the second operand, XLA copies all of it in every pass when there is one K head.
        scores = product("bkth,bkgwh->bktgw", keys, rows, preferred_element_type=jnp.float32)
        scores = scores.transpose(0, 1, 3, 4, 2)
    else:
        scores = product("bkgwh,bkth->bkgwt", rows, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, MASKED), axis=-1).astype(values.dtype)
    out = product("bkgwt,bkth->bkgwh", weights, values)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, W, N, H)


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    config: ModelConfig
    product: Product = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, F = c.width, c.mlp_width
        gate = parameter(self, "gate", (D, F), ("embed", "mlp"), D**-0.5)
        up = parameter(self, "up", (D, F), ("embed", "mlp"), D**-0.5)
        down = parameter(self, "down", (F, D), ("mlp", "embed"), (F * 2 * c.layers) ** -0.5)
        inner = nn.silu(self.product("bwd,df->bwf", x, gate)) * self.product("bwd,df->bwf", x, up)
        return self.product("bwf,fd->bwd", inner, down)


class Block(nn.Module):
    """Pre-norm attention and mlp with residual connections."""

    config: ModelConfig
    product: Product = jnp.einsum

    @nn.compact
    def __call__(self, x, angles, mask, slots, layer):
        c = self.config
        with jax.named_scope("attention"):
            y, layer = Attention(c, self.product, name="attention")(
                RMSNorm(c.norm_eps, name="attention_norm")(x), angles, mask, slots, layer
            )
            x = nn.with_logical_constraint(x + y, ACTIVATION)
        with jax.named_scope("mlp"):
            y = MLP(c, self.product, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
            return nn.with_logical_constraint(x + y, ACTIVATION), layer
