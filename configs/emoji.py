"""The config of ssd_jax/configs/emoji.py, where it stands in an installed package too."""

from ssd_jax.configs.emoji import get_config

__all__ = ["get_config"]
