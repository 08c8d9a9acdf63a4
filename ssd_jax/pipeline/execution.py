"""Describes how a model is run: dtype, devices and attention implementation."""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh

from ssd_jax.parallel.mesh import DATA
from ssd_jax.pipeline.request import whole_batch


@dataclasses.dataclass(frozen=True)
class Execution:
    """Attributes:
    dtype: dtype of parameters and cache.
    mesh: the devices over which model and cache are sharded; None is one device.
    attention: the implementation that decoders use (see `models.attention`).
    """

    dtype: jnp.dtype
    mesh: Mesh | None = None
    attention: str = "plain"

    def whole_rows(self, batch: int, guided: bool) -> int:
        """The smallest batch of at least so many images whose batch rows, guidance included, fill the data axis."""
        return whole_batch(batch, guided, 1 if self.mesh is None else self.mesh.shape[DATA])
