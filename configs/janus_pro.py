"""The config of ssd_jax/configs/janus_pro.py, where it stands in an installed package too."""

from ssd_jax.configs.janus_pro import get_config

__all__ = ["get_config"]
