"""Emu3's image tokenizer: a VQGAN whose decoder's norms see the code vectors (MoVQ), made for video.

Source: arXiv 2409.18869 (Emu3), arXiv 2209.09002 (MoVQ). Images are in [-1, 1] with sides that are multiples of the
stride.

An image is treated as a video of `frames` equal frames, and only the first decoded frame is kept. So the spatial
convolutions run once, on one frame, and only the encoder's two convolutions that halve time see several. All other
convolutions over time see one frame: they are zero-padded in front only, so all taps but the last meet padding, and the
last tap alone, a spatial convolution, gives the same result. In the decoder this holds because the first frame sees no
later one, even where frames are doubled. `weights.vq_names` takes that tap out of a kernel.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from ssd_jax.models.layers import along_last
from ssd_jax.models.vq_blocks import conv, enlarge, nearest_code
from ssd_jax.models.vq_config import MoVQConfig
from ssd_jax.models.vqgan import Decoder, Encoder, group_norm


class SpatialNorm(nn.Module):
    """GroupNorm, then a scale and shift per pixel that are computed from `guide`."""

    @nn.compact
    def __call__(
        self, x: Float32[Array, "B height width D"], guide: Float32[Array, "B R C code_dim"]
    ) -> Float32[Array, "B height width D"]:
        # A 1x1 convolution before the upsampling equals the original's after it.
        scale, shift = (conv(x.shape[-1], 1, name)(guide) for name in ("conv_y", "conv_b"))
        factor = x.shape[1] // guide.shape[1]
        return group_norm("norm")(x) * enlarge(scale, factor) + enlarge(shift, factor)


class FixedBatchNorm(nn.Module):
    """Batch normalisation with the checkpoint's statistics, which are ordinary parameters here."""

    @nn.compact
    def __call__(self, x: Float32[Array, "B R C D"]) -> Float32[Array, "B R C D"]:
        shape = (x.shape[-1],)
        mean, bias = (self.param(name, nn.initializers.zeros, shape) for name in ("mean", "bias"))
        var, scale = (self.param(name, nn.initializers.ones, shape) for name in ("var", "scale"))
        factor = jax.lax.rsqrt(var + 1e-5) * scale
        mean, factor, bias = (along_last(vector, x) for vector in (mean, factor, bias))
        return (x - mean) * factor + bias


class TimeBlock(nn.Module):
    """The ResNet block over time, for one frame: batch norm, silu, conv, twice, plus the input."""

    @nn.compact
    def __call__(self, x: Float32[Array, "B R C D"]) -> Float32[Array, "B R C D"]:
        y = conv(x.shape[-1], 3, "conv1")(nn.silu(FixedBatchNorm(name="norm1")(x)))
        y = conv(x.shape[-1], 3, "conv2")(nn.silu(FixedBatchNorm(name="norm2")(y)))
        return x + y


class EncoderTime(nn.Module):
    """Maps the latents of one frame to those of `frames` equal frames, contracted to one."""

    config: MoVQConfig

    @nn.compact
    def __call__(self, z: Float32[Array, "B R C D"]) -> Float32[Array, "B R C D"]:
        frames, D = self.config.frames, z.shape[-1]
        video = jnp.broadcast_to(z[:, None], (z.shape[0], frames, *z.shape[1:]))
        for step in range(frames.bit_length() - 1):
            halved = nn.Conv(D, (4, 3, 3), (2, 1, 1), ((2, 0), (1, 1), (1, 1)), name=f"conv_{step}")
            video = nn.silu(halved(video))
        z = video[:, 0]
        for block in range(self.config.blocks):
            z = TimeBlock(name=f"block_{block}")(z)
        return z


class DecoderTime(nn.Module):
    """Maps latents to those of the first of `frames` frames."""

    config: MoVQConfig

    @nn.compact
    def __call__(self, z: Float32[Array, "B R C D"]) -> Float32[Array, "B R C D"]:
        for block in range(self.config.blocks):
            z = TimeBlock(name=f"block_{block}")(z)
        for step in range(self.config.frames.bit_length() - 1):
            z = nn.silu(conv(z.shape[-1], 3, f"conv_{step}")(z))
        return z


class MoVQ(nn.Module):
    """Encoder, codebook and decoder: `encode` and `decode`; a call does both, one after the other."""

    config: MoVQConfig

    def setup(self):
        config = self.config
        self.encoder = Encoder(config)
        self.encoder_time = EncoderTime(config)
        self.quant_conv = nn.Dense(config.code_dim)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (config.codebook_size, config.code_dim))
        self.post_quant_conv = nn.Dense(config.latent_dim)
        self.decoder_time = DecoderTime(config)
        self.decoder = Decoder(config, SpatialNorm)

    def latents(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B R C code_dim"]:
        """Latents before quantisation."""
        return self.quant_conv(self.encoder_time(self.encoder(images)))

    def encode(self, images: Float32[Array, "B height width 3"]) -> Int32[Array, "B R C"]:
        """Images to codes."""
        return nearest_code(self.latents(images), self.codebook)

    def decode(self, codes: Int32[Array, "B R C"]) -> Float32[Array, "B height width 3"]:
        """Codes to images in [-1, 1] (not clipped)."""
        vectors = self.codebook[codes]
        # One stack for both, as published; images are independent in it.
        both = self.decoder_time(jnp.concatenate([self.post_quant_conv(vectors), vectors]))
        return self.decoder(*jnp.split(both, 2))

    def __call__(self, images: Float32[Array, "B height width 3"]) -> Float32[Array, "B height width 3"]:
        """Images, encoded and decoded again."""
        return self.decode(self.encode(images))
