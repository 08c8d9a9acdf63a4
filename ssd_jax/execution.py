"""How a model is computed: in which numbers, on which devices, with which attention."""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Execution:
    """Attributes:
    dtype: of parameters and cache.
    mesh: the devices over which model and cache are spread; None is one device.
    attention: which implementation decoders use (see `models.attention`).
    """

    dtype: jnp.dtype
    mesh: Mesh | None = None
    attention: str = "plain"
