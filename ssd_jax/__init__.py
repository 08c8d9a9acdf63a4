"""Fast autoregressive image generation in JAX.

import ssd_jax
pipe = ssd_jax.load("emoji")
pipe.generate(["red apple"], seed=0).images[0].save("apple.png")
"""

from ssd_jax.decode.ar import AR
from ssd_jax.decode.presets import PRESETS
from ssd_jax.errors import UserError
from ssd_jax.pipeline import Output, Pipeline, load

__version__ = "0.1.0"
__all__ = ["AR", "PRESETS", "Output", "Pipeline", "UserError", "load"]
