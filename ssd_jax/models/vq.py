"""The image tokenizer: convolutional encoder, codebook, decoder (VQGAN family, arXiv 2012.09841).

Block structure and names follow the published tokenizers (conv_in, down, mid, up, norm_out, conv_out); what differs
between them is in `VQConfig`. Images are float32 [B, height, width, 3] in [-1, 1], codes int32 [B, R, C].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import VQConfig


def _conv(features: int, size: int, name: str) -> nn.Conv:
    return nn.Conv(features, (size, size), padding="SAME", name=name)


def _norm(config: VQConfig, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=config.groups, epsilon=1e-6, name=name)


class ResnetBlock(nn.Module):
    """norm, silu, conv, norm, silu, conv, plus the input (through a 1x1 convolution where the width changes)."""

    config: VQConfig
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _conv(self.features, 3, "conv1")(nn.silu(_norm(self.config, "norm1")(x)))
        y = _conv(self.features, 3, "conv2")(nn.silu(_norm(self.config, "norm2")(y)))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, "nin_shortcut")(x)
        return x + y


class AttentionBlock(nn.Module):
    """Single-head self-attention over the whole grid, with a residual connection."""

    config: VQConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, R, C, D = x.shape
        y = _norm(self.config, "norm")(x).reshape(B, R * C, D)
        q, k, v = (nn.Dense(D, name=name)(y) for name in ("q", "k", "v"))
        scores = jnp.einsum("bqd,bkd->bqk", q, k) * D**-0.5
        y = jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores, axis=-1), v)
        return x + nn.Dense(D, name="proj_out")(y).reshape(x.shape)


class Middle(nn.Module):
    """ResNet block, attention, ResNet block at the lowest resolution."""

    config: VQConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ResnetBlock(self.config, x.shape[-1], name="block_1")(x)
        x = AttentionBlock(self.config, name="attn_1")(x)
        return ResnetBlock(self.config, x.shape[-1], name="block_2")(x)


class Encoder(nn.Module):
    """Images to latents [B, R, C, channels * multipliers[-1]]."""

    config: VQConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        config = self.config
        x = _conv(config.channels, 3, "conv_in")(space_to_depth(images, config.patch))
        for level, multiplier in enumerate(config.multipliers):
            for block in range(config.blocks):
                x = ResnetBlock(config, config.channels * multiplier, name=f"down_{level}_block_{block}")(x)
            if level + 1 < len(config.multipliers):
                # Padded on the right and below only, as the published tokenizers do.
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = nn.Conv(x.shape[-1], (3, 3), (2, 2), "VALID", name=f"down_{level}_downsample")(x)
        x = Middle(config, name="mid")(x)
        return _norm(config, "norm_out")(x)


class Decoder(nn.Module):
    """Quantised latents [B, R, C, code_dim] to images."""

    config: VQConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config = self.config
        x = _conv(config.channels * config.multipliers[-1], 3, "conv_in")(z)
        x = Middle(config, name="mid")(x)
        for level in reversed(range(len(config.multipliers))):
            for block in range(config.blocks + 1):
                x = ResnetBlock(config, config.channels * config.multipliers[level], name=f"up_{level}_block_{block}")(
                    x
                )
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = _conv(x.shape[-1], 3, f"up_{level}_upsample")(x)
        x = _conv(3 * config.patch**2, 3, "conv_out")(nn.silu(_norm(config, "norm_out")(x)))
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

    def code_vectors(self) -> jax.Array:
        """The codebook as it enters lookup and decoder, float32 [V, code_dim]."""
        return _unit(self.codebook) if self.config.normalised else self.codebook

    def latents(self, images: jax.Array) -> jax.Array:
        """Latents before quantisation, [B, R, C, code_dim]."""
        z = self.quant_conv(self.encoder(images))
        return _unit(z) if self.config.normalised else z

    def lookup(self, z: jax.Array) -> jax.Array:
        """Nearest code of every latent, int32 [B, R, C]; the lowest id wins a tie."""
        codes = self.code_vectors()
        # argmin |z - c|^2 without the term that is the same for every code.
        return jnp.argmax(jnp.einsum("brcd,vd->brcv", z, codes) - 0.5 * (codes**2).sum(-1), axis=-1).astype(jnp.int32)

    def latents_and_codes(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents before quantisation and the codes they are given."""
        z = self.latents(images)
        return z, self.lookup(z)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images to codes."""
        return self.latents_and_codes(images)[1]

    def decode(self, codes: jax.Array) -> jax.Array:
        """Codes to images in [-1, 1] (not clipped)."""
        return self.decoder(self.code_vectors()[codes])

    def __call__(
        self, images: jax.Array, quantised: jax.Array | float = 1.0
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Images -> (reconstruction, codes, scalar terms "codebook" and "commitment"); straight-through gradient.

        `quantised` is 1, or 0 while the decoder still sees the latents themselves: an encoder that is quantised from
        the first step keeps its latents in a corner of the sphere.
        Source: VQ-VAE, arXiv 1711.00937, equation 3.
        """
        z, codes = self.latents_and_codes(images)
        chosen = self.code_vectors()[codes]
        terms = {
            "codebook": jnp.mean(jnp.sum((chosen - jax.lax.stop_gradient(z)) ** 2, axis=-1)),
            "commitment": quantised * jnp.mean(jnp.sum((z - jax.lax.stop_gradient(chosen)) ** 2, axis=-1)),
        }
        return self.decoder(z + quantised * jax.lax.stop_gradient(chosen - z)), codes, terms


def abstract_vq(config: VQConfig) -> Any:
    """Shapes of the parameters, without making any: a pytree of `jax.ShapeDtypeStruct`."""
    image = jnp.zeros((1, 2 * config.stride, 2 * config.stride, 3))
    return jax.eval_shape(lambda: VQModel(config).init(jax.random.key(0), image))


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def space_to_depth(images: jax.Array, patch: int) -> jax.Array:
    """[B, R*patch, C*patch, D] -> [B, R, C, patch*patch*D]."""
    B, height, width, D = images.shape
    x = images.reshape(B, height // patch, patch, width // patch, patch, D)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, height // patch, width // patch, patch * patch * D)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `space_to_depth`."""
    B, R, C, D = x.shape
    x = x.reshape(B, R, C, patch, patch, D // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, R * patch, C * patch, D // patch**2)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 0..255 to float32 -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """float -1..1 to uint8 0..255, clipped and truncated as the published pipelines do."""
    return (jnp.clip((images + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(jnp.uint8)
