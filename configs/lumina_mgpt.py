"""The config of ssd_jax/configs/lumina_mgpt.py, where it stands in an installed package too."""

from ssd_jax.configs.lumina_mgpt import get_config

__all__ = ["get_config"]
