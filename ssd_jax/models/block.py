"""The transformer block: pre-norm attention and mlp with residual connections."""

from collections.abc import Sequence
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float32, Int32

from ssd_jax.models.attention import Attention, LayerCache
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import ACTIVATION, Angles, RMSNorm, parameter
from ssd_jax.models.matmul import Products
from ssd_jax.sequence.cache import KVCache


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, x: Float32[Array, "B W D"]) -> Float32[Array, "B W D"]:
        c, linear = self.config, self.products.linear
        D, F = c.width, c.mlp_width
        gate = parameter(self, "gate", (F, D), ("mlp", "embed"), D**-0.5)
        up = parameter(self, "up", (F, D), ("mlp", "embed"), D**-0.5)
        down = parameter(self, "down", (D, F), ("embed", "mlp"), (F * 2 * c.layers) ** -0.5)
        return linear(nn.silu(linear(x, gate)) * linear(x, up), down)


class Block(nn.Module):
    """Pre-norm attention and mlp with residual connections; activations between products are float32."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(
        self,
        x: Float32[Array, "B W D"],
        angles: Angles,
        mask: Bool[Array, "B W T"],
        slots: Int32[Array, "B written"] | None,
        layer: LayerCache | None,
        attention: str = "plain",
        kept: DTypeLike = jnp.float32,
    ) -> tuple[Float32[Array, "B W D"], LayerCache | None]:
        c = self.config
        with jax.named_scope("attention"):
            y, layer = Attention(c, self.products, name="attention")(
                RMSNorm(c.norm_eps, name="attention_norm")(x), angles, mask, slots, layer, attention, kept
            )
            x = nn.with_logical_constraint(x + y, ACTIVATION)
        with jax.named_scope("mlp"):
            y = MLP(c, self.products, name="mlp")(RMSNorm(c.norm_eps, name="mlp_norm")(x))
            return nn.with_logical_constraint(x + y, ACTIVATION), layer


RECOMPUTED = cast(type[Block], nn.remat(Block, static_argnums=(6, 7)))
"""A block whose activations are computed again for its gradient, not kept; the static arguments are the last two."""


def run_blocks(
    blocks: Sequence[Block],
    first: int,
    x: Float32[Array, "B W D"],
    angles: Angles,
    mask: Bool[Array, "B W T"],
    slots: Int32[Array, "B written"] | None,
    cache: KVCache | None,
    kept: DTypeLike,
) -> tuple[Float32[Array, "B W D"], KVCache | None]:
    """Runs blocks one after the other, which have the layers of the cache from `first` on; see `Transformer.hidden`."""
    attention, written = "plain" if cache is None else cache.attention, []
    for index, block in enumerate(blocks, first):
        layer = None if cache is None else (cache.keys[index], cache.values[index])
        x, layer = block(x, angles, mask, slots, layer, attention, kept)
        written.append(layer)
    return x, None if cache is None else cache.replaced(first, written)
