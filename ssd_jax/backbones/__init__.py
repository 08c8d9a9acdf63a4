"""The table of supported backbones; each is described in a file of its own.

To add one, write its file after the example of another, and enter it in `BACKBONES`.
"""

from ssd_jax.backbones import emoji, emu3, emu3_5, janus, lumina
from ssd_jax.backbones.base import Backbone, Published
from ssd_jax.errors import shown
from ssd_jax.models.config import ConfigError, ModelConfig

BACKBONES: dict[str, Backbone] = {
    room.BACKBONE.name: room.BACKBONE
    for room in (
        emoji,
        emu3_5,  # before Emu3, whose config.json is of the same kind
        emu3,
        lumina,
        janus,
    )
}
"""`ModelConfig.architecture` -> the backbone."""

PUBLISHED: dict[str, Published] = {
    name: backbone.published for name, backbone in BACKBONES.items() if backbone.published is not None
}
"""The backbones with a published checkpoint format."""


def backbone_of(config: ModelConfig, where: str = "") -> Backbone:
    """The backbone of a configuration; raises `ConfigError`, prefixed with `where`, if there is none."""
    if config.architecture not in BACKBONES:
        found = f"architecture must be one of {tuple(BACKBONES)}, not {shown(config.architecture)}."
        raise ConfigError(f"{where}: {found}" if where else found)
    return BACKBONES[config.architecture]
