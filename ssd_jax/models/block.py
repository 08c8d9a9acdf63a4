"""A block of the transformer: attention and mlp, each behind its norm, with residual connections."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.attention import Attention
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import ACTIVATION, RMSNorm, parameter
from ssd_jax.models.matmul import Products


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, linear = self.config, self.products.linear
        D, F = c.width, c.mlp_width
        gate = parameter(self, "gate", (F, D), ("mlp", "embed"), D**-0.5)
        up = parameter(self, "up", (F, D), ("mlp", "embed"), D**-0.5)
        down = parameter(self, "down", (D, F), ("embed", "mlp"), (F * 2 * c.layers) ** -0.5)
        return linear(nn.silu(linear(x, gate)) * linear(x, up), down)


class Block(nn.Module):
    """Pre-norm attention and mlp with residual connections; everything between two products is float32."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, x, angles, mask, slots, layer, attention="plain", kept=jnp.float32):
        c = self.config
        with jax.named_scope("attention"):
            y, layer = Attention(c, self.products, name="attention")(
                RMSNorm(c.norm_eps, name="attention_norm")(x), angles, mask, slots, layer, attention, kept
            )
            x = nn.with_logical_constraint(x + y, ACTIVATION)
        with jax.named_scope("mlp"):
            y = MLP(c, self.products, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
            return nn.with_logical_constraint(x + y, ACTIVATION), layer
