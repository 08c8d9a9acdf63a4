"""The published VQGAN tokenizers: Chameleon's (Lumina-mGPT), LlamaGen's VQ-16 (Janus), and Emu3.5's, an IBQ.

Source: arXiv 2012.09841. Images are in [-1, 1] with sides that are multiples of the stride.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.models.vq_blocks import Middle, Norm, ascend, conv, descend, largest_product, nearest_code
from ssd_jax.models.vq_config import GROUPS, MoVQConfig, VQGANConfig


def group_norm(name: str) -> nn.GroupNorm:
    """The GroupNorm of the published tokenizers."""
    # The fast variance, E[x^2] - E[x]^2, loses precision where a group's mean is far from 0; the originals avoid it.
    return nn.GroupNorm(num_groups=GROUPS, epsilon=1e-6, use_fast_variance=False, name=name)


class Encoder(nn.Module):
    """Images to latents."""

    config: VQGANConfig | MoVQConfig

    @nn.compact
    def __call__(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B R C latent_dim"]:
        config = self.config
        x = conv(config.channels, 3, "conv_in")(images)
        x = descend(x, group_norm, config.widths, config.blocks, config.attention_levels)
        x = Middle(group_norm, name="mid")(x)
        return conv(config.latent_dim, 3, "conv_out")(nn.silu(group_norm("norm_out")(x)))


class Decoder(nn.Module):
    """Latents to images; `guide` goes to every normalisation layer."""

    config: VQGANConfig | MoVQConfig
    norm: Norm

    @nn.compact
    def __call__(
        self, z: Float32[Array, "B R C latent_dim"], *guide: Float32[Array, "B R C code_dim"]
    ) -> Float32[Array, "B height width 3"]:
        config = self.config
        x = conv(config.widths[-1], 3, "conv_in")(z)
        x = Middle(self.norm, name="mid")(x, *guide)
        x = ascend(x, self.norm, config.widths, config.blocks + 1, config.attention_levels, guide)
        return conv(3, 3, "conv_out")(nn.silu(self.norm(name="norm_out")(x, *guide)))


class VQGAN(nn.Module):
    """Encoder, codebook and decoder: `encode` and `decode`; a call does both, one after the other."""

    config: VQGANConfig

    def setup(self):
        config = self.config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Dense(config.code_dim)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (config.codebook_size, config.code_dim))
        self.post_quant_conv = nn.Dense(config.latent_dim)
        self.decoder = Decoder(config, group_norm)

    def code_vectors(self) -> Float32[Array, "V code_dim"]:
        """The codebook as lookup and decoder use it."""
        return _unit(self.codebook) if self.config.normalised else self.codebook

    def latents(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B R C code_dim"]:
        """Latents before quantisation."""
        z = self.quant_conv(self.encoder(images))
        return _unit(z) if self.config.normalised else z

    def encode(self, images: Float32[Array, "B height width 3"]) -> Int32[Array, "B R C"]:
        """Images to codes."""
        find = largest_product if self.config.inner_product else nearest_code
        return find(self.latents(images), self.code_vectors())

    def decode(self, codes: Int32[Array, "B R C"]) -> Float32[Array, "B height width 3"]:
        """Codes to images in [-1, 1] (not clipped)."""
        return self.decoder(self.post_quant_conv(self.code_vectors()[codes]))

    def __call__(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B height width 3"]:
        """Images, encoded and decoded again."""
        return self.decode(self.encode(images))


def _unit(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """x divided by its norm, or by 1e-12 where that is smaller, as in the original."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
