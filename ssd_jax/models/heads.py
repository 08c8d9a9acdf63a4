"""Draft heads: predict the hidden state of a position further right or further down (arXiv 2606.20543)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import HeadsConfig


class DraftHeads(nn.Module):
    """One head per offset of `HeadsConfig.offsets`, stacked along axis 0 (letter O).

        z = [h_i ; e_i];  y = z W0;  out = y + SwiGLU(RMSNorm(y))

    W0 starts as [I ; 0] and the SwiGLU's output as 0, so an untrained head copies the hidden state of its source.

    Attributes:
        config: the offsets.
        width: D of the backbone.
        eps: epsilon of the norm, the backbone's own.
    """

    config: HeadsConfig
    width: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, hidden: jax.Array, embeddings: jax.Array, which: tuple[int, ...] | None = None) -> jax.Array:
        """Predicted hidden states before the final norm.

        Args:
            hidden: h_i [..., D], the state that predicted token i, before the final norm.
            embeddings: e_i [..., D], the input embedding of token i.
            which: the heads to run, as indices into `config.offsets`; None runs all.
        Returns:
            [O, ..., D], O = len(which).
        """
        offsets, D = len(self.config.offsets), self.width

        def matrix(name, rows, init):
            return self.param(name, nn.with_logical_partitioning(init, ("offset", None, None)), (offsets, rows, D))

        w0 = matrix("w0", 2 * D, _copy_hidden)
        gate = matrix("gate", D, nn.initializers.normal(D**-0.5))
        up = matrix("up", D, nn.initializers.normal(D**-0.5))
        down = matrix("down", D, nn.initializers.zeros)
        scale = self.param("norm", nn.with_logical_partitioning(nn.initializers.ones, ("offset", "norm")), (offsets, D))
        if which is not None:
            w0, gate, up, down, scale = (p[jnp.array(which)] for p in (w0, gate, up, down, scale))
        y = jnp.einsum("...z,ozd->o...d", jnp.concatenate([hidden, embeddings], axis=-1), w0)
        scale = scale.reshape(scale.shape[0], *(1,) * (y.ndim - 2), D)
        normed = y.astype(jnp.float32)
        normed = normed * jax.lax.rsqrt(jnp.mean(normed**2, axis=-1, keepdims=True) + self.eps)
        normed = (normed * scale).astype(y.dtype)
        inner = nn.silu(jnp.einsum("o...d,odf->o...f", normed, gate)) * jnp.einsum("o...d,odf->o...f", normed, up)
        return y + jnp.einsum("o...f,ofd->o...d", inner, down)


def abstract_heads(config: HeadsConfig, width: int) -> Any:
    """Shapes of the parameters, without making any: a pytree of `jax.ShapeDtypeStruct`."""
    x = jnp.zeros((1, width))
    return jax.eval_shape(lambda: nn.unbox(DraftHeads(config, width).init(jax.random.key(0), x, x)))


def _copy_hidden(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """[I ; 0] for every offset."""
    del key
    offsets, _, D = shape
    eye = jnp.concatenate([jnp.eye(D, dtype=dtype), jnp.zeros((D, D), dtype)])
    return jnp.broadcast_to(eye, (offsets, 2 * D, D))
