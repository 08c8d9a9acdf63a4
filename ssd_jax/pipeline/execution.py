"""How a model is computed: in which numbers, on which devices, with which attention."""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh

from ssd_jax.parallel.mesh import DATA
from ssd_jax.pipeline.request import whole_batch


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

    def whole_rows(self, batch: int, guided: bool) -> int:
        """The next batch of images whose rows, those of guidance included, fill the data axis of the mesh."""
        return whole_batch(batch, guided, 1 if self.mesh is None else self.mesh.shape[DATA])
