"""Blocks shared by the convolutional image tokenizers; x is [B, height, width, D] everywhere.

The tokenizers differ in `norm`, the constructor of their normalisation layers. It is called as
`norm(name=...)(x, *guide)`; `guide` is empty unless the layers are conditioned on the latents (MoVQ).
Source: VQGAN, arXiv 2012.09841. Its names are kept (conv_in, norm1, nin_shortcut, proj_out).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ssd_jax.models.layers import along_last

Norm = Callable[..., nn.Module]


def conv(features: int, size: int, name: str) -> nn.Conv:
    """A convolution that keeps height and width."""
    return nn.Conv(features, (size, size), padding="SAME", name=name)


class ResnetBlock(nn.Module):
    """norm, silu, conv, norm, silu, conv, plus the input (through a 1x1 convolution where the width changes)."""

    norm: Norm
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width D"], *guide: Float[Array, "B R C Z"]
    ) -> Float[Array, "B height width features"]:
        y = conv(self.features, 3, "conv1")(nn.silu(self.norm(name="norm1")(x, *guide)))
        y = conv(self.features, 3, "conv2")(nn.silu(self.norm(name="norm2")(y, *guide)))
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, "nin_shortcut")(x)
        return x + y


class AttentionBlock(nn.Module):
    """Single-head self-attention over the whole grid, with a residual connection."""

    norm: Norm

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width D"], *guide: Float[Array, "B R C Z"]
    ) -> Float[Array, "B height width D"]:
        B, height, width, D = x.shape
        y = self.norm(name="norm")(x, *guide).reshape(B, height * width, D)
        q, k, v = (nn.Dense(D, name=name)(y) for name in ("q", "k", "v"))
        scores = jnp.einsum("bqd,bkd->bqk", q, k) * D**-0.5
        y = jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores, axis=-1), v)
        return x + nn.Dense(D, name="proj_out")(y).reshape(x.shape)


class Middle(nn.Module):
    """ResNet block, attention, ResNet block at the lowest resolution."""

    norm: Norm

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width D"], *guide: Float[Array, "B R C Z"]
    ) -> Float[Array, "B height width D"]:
        x = ResnetBlock(self.norm, x.shape[-1], name="block_1")(x, *guide)
        x = AttentionBlock(self.norm, name="attn_1")(x, *guide)
        return ResnetBlock(self.norm, x.shape[-1], name="block_2")(x, *guide)


def descend(
    x: Float[Array, "B height width D"],
    norm: Norm,
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[int] = (),
) -> Float[Array, "B R C lowest"]:
    """Runs the levels of an encoder, from level 0, the highest resolution, down. Call it in a compact method.

    Args:
        widths: the channels of every level; each level after the first halves the grid.
        blocks: ResNet blocks per level.
        attention: the levels in which an attention block follows every ResNet block.
    """
    for level, width in enumerate(widths):
        for block in range(blocks):
            x = ResnetBlock(norm, width, name=f"down_{level}_block_{block}")(x)
            if level in attention:
                x = AttentionBlock(norm, name=f"down_{level}_attn_{block}")(x)
        if level + 1 < len(widths):
            # Padded on the right and at the bottom only, as in the published tokenizers.
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            x = nn.Conv(x.shape[-1], (3, 3), (2, 2), "VALID", name=f"down_{level}_downsample")(x)
    return x


def ascend(
    x: Float[Array, "B R C D"],
    norm: Norm,
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[int] = (),
    guide: Sequence[Float[Array, "B R C Z"]] = (),
) -> Float[Array, "B height width highest"]:
    """Runs the levels of a decoder, from the lowest resolution up; arguments and level numbers as in `descend`."""
    for level in reversed(range(len(widths))):
        for block in range(blocks):
            x = ResnetBlock(norm, widths[level], name=f"up_{level}_block_{block}")(x, *guide)
            if level in attention:
                x = AttentionBlock(norm, name=f"up_{level}_attn_{block}")(x, *guide)
        if level:
            x = conv(x.shape[-1], 3, f"up_{level}_upsample")(enlarge(x, 2))
    return x


def enlarge(x: Float[Array, "B R C D"], factor: int) -> Float[Array, "B R*{factor} C*{factor} D"]:
    """Nearest-neighbour upsampling: every pixel becomes a square of factor x factor equal ones."""
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def nearest_code(z: Float[Array, "B R C D"], codes: Float[Array, "V D"]) -> Int32[Array, "B R C"]:
    """The code whose vector in `codes` is nearest to each vector of z; the lowest wins a tie."""
    # argmin |z - c|^2 without |z|^2, which is the same for every code.
    near = jnp.einsum("brcd,vd->brcv", z, codes)
    return jnp.argmax(near - along_last(0.5 * (codes**2).sum(-1), near), axis=-1).astype(jnp.int32)


def largest_product(z: Float[Array, "B R C D"], codes: Float[Array, "V D"]) -> Int32[Array, "B R C"]:
    """The code whose vector in `codes` has the largest inner product with each vector of z; the lowest wins a tie."""
    return jnp.argmax(jnp.einsum("brcd,vd->brcv", z, codes), axis=-1).astype(jnp.int32)
