"""The config of ssd_jax/configs/emu3_5.py, where it stands in an installed package too."""

from ssd_jax.configs.emu3_5 import get_config

__all__ = ["get_config"]
