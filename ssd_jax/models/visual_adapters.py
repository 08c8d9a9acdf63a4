"""Visual codes outside the vocabulary: a narrow table with an mlp in front of the backbone, an mlp behind it.

Source: Janus-Pro, arXiv 2501.17811 (generation adaptor and image head).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import parameter
from ssd_jax.models.matmul import Products


class CodeEmbedding(nn.Module):
    """Codes to input embeddings: a row of the codes' own table, then two layers with a GELU between."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., D]."""
        c = self.config
        E, D = c.code_width, c.width
        table = parameter(self, "table", (c.visual_size, E), ("code", "code_width"), 1.0)
        x = dense(self, "first", table[codes].astype(jnp.float32), (D, E), ("code_mlp", "code_width"))
        return dense(self, "second", nn.gelu(x, approximate=False), (D, D), ("embed", "code_mlp"))


class VisualMLP(nn.Module):
    """Normalised hidden states to visual logits: two layers with a GELU between."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        c = self.config
        x = dense(self, "first", x, (c.head_width, c.width), ("head_mlp", "embed"))
        x = nn.gelu(x, approximate=False)
        return dense(self, "second", x, (c.visual_size, c.head_width), ("code", "head_mlp"))


def dense(module: nn.Module, name: str, x: jax.Array, shape: tuple[int, int], axes: tuple[str, str]) -> jax.Array:
    """x [..., in] times the module's matrix `name`, of shape (out, in), plus its bias: float32 [..., out]."""
    matrix = parameter(module, name, shape, axes, shape[1] ** -0.5)
    init = nn.with_logical_partitioning(nn.initializers.zeros, axes[:1])
    bias = module.param(f"{name}_bias", init, shape[:1])
    return module.products.linear(x, matrix) + bias.astype(jnp.float32)
