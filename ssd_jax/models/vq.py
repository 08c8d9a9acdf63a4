"""The bundled model's image tokenizer: convolutional encoder, codebook, decoder (VQGAN family, arXiv 2012.09841).

Block structure and names follow the published tokenizers (conv_in, down, mid, up, norm_out, conv_out); `VQConfig` has
the differences. Images are in [-1, 1].
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Shaped, UInt8

from ssd_jax.models.config import VQConfig
from ssd_jax.models.vq_blocks import Middle, Norm, ascend, conv, descend, nearest_code


def _norm(config: VQConfig) -> Norm:
    return partial(nn.GroupNorm, num_groups=config.groups, epsilon=1e-6)


class Encoder(nn.Module):
    """Images to latents of the width of the lowest level, `config.widths[-1]`."""

    config: VQConfig

    @nn.compact
    def __call__(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B R C D"]:
        config = self.config
        norm = _norm(config)
        x = conv(config.channels, 3, "conv_in")(space_to_depth(images, config.patch))
        x = descend(x, norm, config.widths, config.blocks)
        x = Middle(norm, name="mid")(x)
        return norm(name="norm_out")(x)


class Decoder(nn.Module):
    """Quantised latents to images."""

    config: VQConfig

    @nn.compact
    def __call__(self, z: Float32[Array, "B R C code_dim"]) -> Float32[Array, "B height width 3"]:
        config = self.config
        norm = _norm(config)
        x = conv(config.widths[-1], 3, "conv_in")(z)
        x = Middle(norm, name="mid")(x)
        x = ascend(x, norm, config.widths, config.blocks + 1)
        x = conv(3 * config.patch**2, 3, "conv_out")(nn.silu(norm(name="norm_out")(x)))
        return depth_to_space(x, config.patch)


class VQModel(nn.Module):
    """Encoder, codebook and decoder; call with images for training, or `encode` and `decode`."""

    config: VQConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.quant_conv = nn.Dense(self.config.code_dim)
        self.codebook = self.param(
            "codebook", nn.initializers.normal(1.0), (self.config.codebook_size, self.config.code_dim)
        )
        self.decoder = Decoder(self.config)

    def code_vectors(self) -> Float32[Array, "V code_dim"]:
        """The codebook as lookup and decoder use it."""
        return _unit(self.codebook) if self.config.normalised else self.codebook

    def latents(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B R C code_dim"]:
        """Latents before quantisation."""
        z = self.quant_conv(self.encoder(images))
        return _unit(z) if self.config.normalised else z

    def lookup(self, z: Float32[Array, "B R C code_dim"]) -> Int32[Array, "B R C"]:
        """Nearest code of every latent; the lowest code wins a tie."""
        return nearest_code(z, self.code_vectors())

    def latents_and_codes(
        self, images: Float32[Array, "B height width 3"]
    ) -> tuple[Float32[Array, "B R C code_dim"], Int32[Array, "B R C"]]:
        """Latents before quantisation, and their codes."""
        z = self.latents(images)
        return z, self.lookup(z)

    def encode(self, images: Float32[Array, "B height width 3"]) -> Int32[Array, "B R C"]:
        """Images to codes."""
        return self.latents_and_codes(images)[1]

    def decode(self, codes: Int32[Array, "B R C"]) -> Float32[Array, "B height width 3"]:
        """Codes to images in [-1, 1] (not clipped)."""
        return self.decoder(self.code_vectors()[codes])

    def __call__(
        self, images: Float32[Array, "B height width 3"], quantised: Float[Array, ""] | float = 1.0
    ) -> tuple[Float32[Array, "B height width 3"], Int32[Array, "B R C"], dict[str, Float32[Array, ""]]]:
        """Images -> (reconstruction, codes, terms "codebook" and "commitment"); straight-through gradient.

        `quantised` is 1, or 0 while the decoder still sees unquantised latents: an encoder that is quantised from the
        first step keeps its latents in a corner of the sphere.
        Source: VQ-VAE, arXiv 1711.00937, equation 3.
        """
        z, codes = self.latents_and_codes(images)
        chosen = self.code_vectors()[codes]
        terms = {
            "codebook": jnp.mean(jnp.sum((chosen - jax.lax.stop_gradient(z)) ** 2, axis=-1)),
            "commitment": quantised * jnp.mean(jnp.sum((z - jax.lax.stop_gradient(chosen)) ** 2, axis=-1)),
        }
        return self.decoder(z + quantised * jax.lax.stop_gradient(chosen - z)), codes, terms


def _unit(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def space_to_depth(
    images: Shaped[Array, "B height width D"], patch: int
) -> Shaped[Array, "B height//{patch} width//{patch} {patch}*{patch}*D"]:
    """Stacks every square of patch x patch pixels into the channels of one."""
    B, height, width, D = images.shape
    x = images.reshape(B, height // patch, patch, width // patch, patch, D)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, height // patch, width // patch, patch * patch * D)


def depth_to_space(
    x: Shaped[Array, "B R C D"], patch: int
) -> Shaped[Array, "B R*{patch} C*{patch} D//({patch}*{patch})"]:
    """The inverse of `space_to_depth`."""
    B, R, C, D = x.shape
    x = x.reshape(B, R, C, patch, patch, D // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, R * patch, C * patch, D // patch**2)


def to_float(images: UInt8[Array | np.ndarray, "*axes"]) -> Float32[Array | np.ndarray, "*axes"]:
    """Converts 0..255 to -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float[Array | np.ndarray, "*axes"]) -> UInt8[Array, "*axes"]:
    """Converts -1..1 to 0..255, clipped and truncated as the published pipelines do."""
    return (jnp.clip((images + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(jnp.uint8)
