"""Fast autoregressive image generation in JAX.

import ssd_jax
pipe = ssd_jax.load("emoji")
pipe.generate(["red apple"], decoder="ssd-exact", seed=0).images[0].save("apple.png")
"""

from ssd_jax.decode.acceptance import Group
from ssd_jax.decode.ar import AR
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.pjd import PJD
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.wave import Wave
from ssd_jax.errors import UserError
from ssd_jax.pipeline.loading import load
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.progress import Preview
from ssd_jax.pipeline.request import Output
from ssd_jax.pipeline.streaming import Stream
from ssd_jax.version import VERSION

__version__ = VERSION
__all__ = [
    "AR",
    "MTP",
    "PJD",
    "PRESETS",
    "SSD",
    "Flash",
    "Group",
    "Output",
    "Pipeline",
    "Preview",
    "Raster",
    "Stream",
    "Tree",
    "UserError",
    "Wave",
    "load",
]
