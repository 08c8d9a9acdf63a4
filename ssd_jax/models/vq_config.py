"""Configurations of the published image tokenizers, and how they are read from a checkpoint's own config.json."""

import dataclasses
from collections.abc import Mapping

from ssd_jax.models.config import ConfigError

GROUPS = 32
"""Groups of every GroupNorm in the published tokenizers."""


@dataclasses.dataclass(frozen=True)
class LevelsConfig:
    """What the published tokenizers have in common.

    Attributes:
        channels: width of the first (highest) resolution level.
        multipliers: width of each level as a multiple of `channels`; each level after the first halves the grid.
        blocks: ResNet blocks per level in the encoder; the decoder has one more.
        attention_levels: the levels in which an attention block follows every ResNet block; 0 is the highest
            resolution. There is attention in the middle always.
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
                raise ConfigError(f"{field.name} must be a positive whole number, not {value!r}.")
        if not self.multipliers or any(type(value) is not int or value < 1 for value in self.multipliers):
            raise ConfigError(f"multipliers must be positive whole numbers, not {self.multipliers!r}.")
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


@dataclasses.dataclass(frozen=True)
class VQGANConfig(LevelsConfig):
    """VQGAN (arXiv 2012.09841) as in Chameleon and Lumina-mGPT, which are the defaults, and in Janus and LlamaGen.

    Attributes:
        latent_dim: channels between encoder or decoder and the 1x1 convolutions around the codebook.
        normalised: latents and code vectors are brought to length one (arXiv 2110.04627), for the lookup and before
            the decoder.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    codebook_size: int = 8192
    code_dim: int = 256
    latent_dim: int = 256
    normalised: bool = False


@dataclasses.dataclass(frozen=True)
class MoVQConfig(LevelsConfig):
    """Emu3's video tokenizer (arXiv 2409.18869, after MoVQ, arXiv 2209.09002), for single pictures.

    Attributes:
        frames: pictures per code along time; a single picture is repeated so many times, as the published model does.
    """

    channels: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (3,)
    codebook_size: int = 32768
    code_dim: int = 4
    frames: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.frames & (self.frames - 1):
            raise ConfigError(f"frames must be a power of two, not {self.frames}.")

    @property
    def latent_dim(self) -> int:
        """Channels between encoder or decoder and codebook: the decoder needs both of one width."""
        return self.code_dim


CHAMELEON = VQGANConfig()
JANUS = VQGANConfig(attention_levels=(4,), codebook_size=16384, code_dim=8, normalised=True)
EMU3 = MoVQConfig()

DEFAULTS = {"chameleon": CHAMELEON, "janus": JANUS, "emu3": EMU3}
"""Families of published tokenizers. A checkpoint's config.json leaves out what is equal to these."""

_FIELDS = {
    "base_channels": "channels",
    "channel_multiplier": "multipliers",
    "num_res_blocks": "blocks",
    "num_embeddings": "codebook_size",
    "codebook_size": "codebook_size",
    "image_token_size": "codebook_size",
    "embed_dim": "code_dim",
    "n_embed": "code_dim",
    "latent_channels": "latent_dim",
    "temporal_downsample_factor": "frames",
}
"""Published key -> our field: transformers' keys, and those of the original Janus."""

_FIXED = {
    "double_latent": False,
    "in_channels": 3,
    "out_channels": 3,
    "attn_type": "vanilla",
    "num_attention_heads": 1,
}
"""Published keys that all checkpoints agree on; another value would be another network."""


def vq_from_hf(family: str, values: Mapping, where: str = "config.json") -> VQGANConfig | MoVQConfig:
    """Reads the image tokenizer's section of a published model's config.json; without one it is the published one.

    Args:
        family: a key of `DEFAULTS`.
        values: the parsed file: `vq_config` as in transformers, or `gen_vision_config` of the original Janus. Keys
            that do not describe the network are passed over.
        where: the file, for error messages.
    Raises:
        ConfigError: a value is malformed or describes a network that is not implemented.
    """
    for keys in (("vq_config",), ("gen_vision_config", "params")):
        section = values
        for key in keys:
            section = section.get(key) if isinstance(section, Mapping) else section
        if section is not None:
            return _from_section(family, section, f"{where}: {'.'.join(keys)}")
    return DEFAULTS[family]


def _from_section(family: str, values: object, where: str) -> VQGANConfig | MoVQConfig:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object.")
    for key, wanted in _FIXED.items():
        if values.get(key, wanted) != wanted:
            raise ConfigError(f"{where}: {key} must be {wanted!r}, not {values[key]!r}.")
    base = DEFAULTS[family]
    given = {ours: values[key] for key, ours in _FIELDS.items() if key in values}
    if "multipliers" in given:
        given["multipliers"] = _whole_numbers(given["multipliers"], f"{where}: multipliers")
    levels = len(given.get("multipliers", base.multipliers))
    given["attention_levels"] = _attention_levels(family, values, levels, where)
    if family == "emu3" and given.pop("latent_dim", base.latent_dim) != given.get("code_dim", base.code_dim):
        raise ConfigError(f"{where}: the latents must be as wide as the code vectors.")
    names = {field.name for field in dataclasses.fields(base)}
    try:
        return dataclasses.replace(base, **{name: value for name, value in given.items() if name in names})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _attention_levels(family: str, values: Mapping, levels: int, where: str) -> tuple[int, ...]:
    """Janus says nothing: it is the last level. Emu3 gives levels; Chameleon gives the sizes that a picture of
    `resolution` has in them."""
    if family == "janus":
        return (levels - 1,)
    default = EMU3.attention_levels if family == "emu3" else ()
    listed = _whole_numbers(values.get("attn_resolutions", default) or (), f"{where}: attn_resolutions")
    if family == "emu3":
        return listed
    (resolution,) = _whole_numbers([values.get("resolution", 512)], f"{where}: resolution")
    return tuple(level for level in range(levels) if resolution // 2**level in listed)


def _whole_numbers(values: object, where: str) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
        raise ConfigError(f"{where} must be whole numbers, not {values!r}.")
    return tuple(values)
