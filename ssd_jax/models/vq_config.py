"""Defines the configurations of the published image tokenizers, VQGAN and MoVQ."""

import dataclasses

from ssd_jax.errors import shown
from ssd_jax.models.config import ConfigError
from ssd_jax.models.config_json import HIGHEST, LEVELS

GROUPS = 32
"""Groups of every GroupNorm in the published tokenizers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """Fields that the published tokenizers share.

    Attributes:
        channels: width of the first (highest) resolution level.
        multipliers: width of each level as a multiple of `channels`; each level after the first halves the grid.
        blocks: ResNet blocks per level in the encoder; the decoder has one more.
        attention_levels: the levels in which an attention block follows every ResNet block; 0 is the highest
            resolution. The middle always has attention.
        codebook_size: number of codes, V.
        code_dim: width of a code vector.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    codebook_size: int
    code_dim: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise ConfigError(f"{field.name} must be a positive whole number, not {shown(value)}.")
            if field.type is int and value > HIGHEST[field.name]:
                raise ConfigError(f"{field.name} must be at most {HIGHEST[field.name]}, not {shown(value)}.")
        most = HIGHEST["multipliers"]
        if not self.multipliers or any(type(value) is not int or value < 1 for value in self.multipliers):
            raise ConfigError(f"multipliers must be positive whole numbers, not {shown(self.multipliers)}.")
        if len(self.multipliers) > LEVELS or max(self.multipliers) > most:
            raise ConfigError(
                f"multipliers must be at most {LEVELS} numbers of at most {most}, not {shown(self.multipliers)}."
            )
        for width in self.widths:
            if width % GROUPS:
                raise ConfigError(f"every level's channels must be a multiple of {GROUPS}, not {width}.")
        if not set(self.attention_levels) <= set(range(len(self.multipliers))):
            raise ConfigError(
                f"attention_levels {self.attention_levels!r} are not among {len(self.multipliers)} levels."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every resolution level."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def stride(self) -> int:
        """Pixels per code along each axis."""
        return 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQGANConfig(LevelsConfig):
    """VQGAN (arXiv 2012.09841), also with the codebook of ViT-VQGAN (arXiv 2110.04627).

    Attributes:
        latent_dim: channels between encoder or decoder and the 1x1 convolutions around the codebook.
        normalised: normalise latents and code vectors to unit length, for the lookup and before the decoder.
        inner_product: a latent's code is that with the largest inner product (IBQ, arXiv 2412.02692), not the nearest.
    """

    attention_levels: tuple[int, ...] = ()
    latent_dim: int
    normalised: bool = False
    inner_product: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoVQConfig(LevelsConfig):
    """A video MoVQ (arXiv 2209.09002, arXiv 2409.18869), used for single images.

    Attributes:
        frames: frames per code along time; a single image is repeated that many times, as in the published model.
    """

    code_dim: int = 4
    frames: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.frames & (self.frames - 1):
            raise ConfigError(f"frames must be a power of two, not {self.frames}.")

    @property
    def latent_dim(self) -> int:
        """Channels between encoder or decoder and codebook: the width of a code vector, as the decoder needs."""
        return self.code_dim
