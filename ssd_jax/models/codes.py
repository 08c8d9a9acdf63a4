"""Visual codes outside the vocabulary: a narrow table with an mlp in front of the backbone, an mlp behind it.

Source: Janus-Pro, arXiv 2501.17811 (generation adaptor and image head).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import parameter
from ssd_jax.models.products import Product


class CodeEmbedding(nn.Module):
    """Codes to input embeddings: a row of the codes' own table, then two layers with a GELU between."""

    config: ModelConfig
    product: Product = jnp.einsum

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """int32 [...] -> [..., D]."""
        c = self.config
        E, D = c.code_width, c.width
        table = parameter(self, "table", (c.visual_size, E), ("code", "code_width"), 1.0)
        x = dense(self, "first", table[codes], (E, D), ("code_width", "code_mlp"))
        return dense(self, "second", nn.gelu(x, approximate=False), (D, D), ("code_mlp", "embed"))


class VisualMLP(nn.Module):
    """Normalised hidden states to visual logits: two layers with a GELU between."""

    config: ModelConfig
    product: Product = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        c = self.config
        x = dense(self, "first", x, (c.width, c.head_width), ("embed", "head_mlp"))
        x = nn.gelu(x, approximate=False)
        return dense(self, "second", x, (c.head_width, c.visual_size), ("head_mlp", "code"), jnp.float32)


def dense(
    module: nn.Module,
    name: str,
    x: jax.Array,
    shape: tuple[int, int],
    axes: tuple[str, str],
    dtype: jnp.dtype | None = None,
) -> jax.Array:
    """x times the module's matrix `name` plus its bias; sums and result in `dtype`, None is that of x."""
    matrix = parameter(module, name, shape, axes, shape[0] ** -0.5)
    init = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
    bias = module.param(f"{name}_bias", init, shape[1:])
    flat = module.product("bd,df->bf", x.reshape(-1, shape[0]), matrix, preferred_element_type=dtype)
    flat = flat + bias.astype(flat.dtype)
    return flat.reshape(*x.shape[:-1], shape[1])
