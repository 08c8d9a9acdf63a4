"""The bundled model, which draws emoji; also any other that is trained or exported here, in our own format."""

from ssd_jax.backbones.base import Backbone

BACKBONE = Backbone("emoji")
