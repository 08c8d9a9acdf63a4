"""Builds the image tokenizer of a configuration; all tokenizers have the methods `encode` and `decode`."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import VQConfig
from ssd_jax.models.movq import MoVQ
from ssd_jax.models.vq import VQModel
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.models.vqgan import VQGAN

AnyVQConfig = VQConfig | VQGANConfig | MoVQConfig

_MODELS = {VQConfig: VQModel, VQGANConfig: VQGAN, MoVQConfig: MoVQ}


def vq_model(config: AnyVQConfig) -> nn.Module:
    """The module of a configuration. `apply(params, images, method="encode")` gives codes, "decode" gives images."""
    return _MODELS[type(config)](config)


@functools.lru_cache
def abstract_vq(config: AnyVQConfig) -> Any:
    """Shapes of the parameters, a pytree of `jax.ShapeDtypeStruct`; allocates nothing. Cached; do not modify it."""
    image = jnp.zeros((1, 2 * config.stride, 2 * config.stride, 3))
    return jax.eval_shape(lambda: vq_model(config).init(jax.random.key(0), image))
