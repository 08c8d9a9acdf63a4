"""Embedding and output head for visual codes outside the vocabulary: a narrow table with an mlp, and an output mlp.

Source: Janus-Pro, arXiv 2501.17811 (generation adaptor and image head).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import along_last, named, parameter
from ssd_jax.models.matmul import Products


class CodeEmbedding(nn.Module):
    """Codes to input embeddings: a lookup in the codes' own table, then two layers with a GELU between."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, codes: Int32[Array | np.ndarray, "*axes"]) -> Float32[Array, "*axes D"]:
        c = self.config
        E, D = c.code_width, c.width
        table = named(self, "table", nn.initializers.normal(1.0), ("code", "code_width"), (c.visual_size, E))
        x = dense(self, "first", table[codes].astype(jnp.float32), (D, E), ("code_mlp", "code_width"))
        return dense(self, "second", nn.gelu(x, approximate=False), (D, D), ("embed", "code_mlp"))


class VisualMLP(nn.Module):
    """Normalised hidden states to visual logits: two layers with a GELU between."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"]) -> Float32[Array, "*axes V"]:
        c = self.config
        x = dense(self, "first", x, (c.head_width, c.width), ("head_mlp", "embed"))
        x = nn.gelu(x, approximate=False)
        return dense(self, "second", x, (c.visual_size, c.head_width), ("code", "head_mlp"))


def dense(
    module: nn.Module, name: str, x: Float[Array, "*axes in"], shape: tuple[int, int], axes: tuple[str, str]
) -> Float32[Array, "*axes out"]:
    """x times the module's matrix `name`, of shape (out, in), plus its bias."""
    matrix = parameter(module, name, shape, axes, shape[1] ** -0.5)
    bias = named(module, f"{name}_bias", nn.initializers.zeros, axes[:1], shape[:1])
    y = module.products.linear(x, matrix)
    return y + along_last(bias.astype(jnp.float32), y)
