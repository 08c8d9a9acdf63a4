"""Describes the model that a pipeline has loaded."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ssd_jax.models.config import HeadCounts, HeadsConfig, ModelConfig
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.matmul import describe
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.origin import Origin
from ssd_jax.version import VERSION


class Described:
    """The part of a `Pipeline` that tells what it has.

    Attributes:
        origin, model, execution: see `Pipeline`.
    """

    origin: Origin
    model: LoadedModel
    execution: Execution

    @property
    def config(self) -> ModelConfig:
        """The backbone's config."""
        return self.model.config

    @property
    def params(self) -> Any:
        """The backbone's parameters."""
        return self.model.params

    @property
    def heads(self) -> HeadsConfig | None:
        """The draft heads' config, or None."""
        return None if self.model.heads is None else self.model.heads.config

    @property
    def heads_params(self) -> Any:
        """The draft heads' parameters, or None."""
        return None if self.model.heads is None else self.model.heads.params

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of parameters and cache."""
        return self.execution.dtype

    @property
    def mesh(self) -> Mesh | None:
        """The devices over which model and cache are sharded; None is one device."""
        return self.execution.mesh

    @property
    def attention(self) -> str:
        """The attention implementation that decoders use (see `models.attention`)."""
        return self.execution.attention

    @property
    def head_counts(self) -> HeadCounts:
        """Numbers of draft heads, and of the vertical branch's layers."""
        return self.model.head_counts

    @property
    def folder(self) -> Path | None:
        """The checkpoint's folder; None for weights that come from no file."""
        return self.origin.folder

    def fingerprint(self) -> str:
        """Identifies the backbone (see `weights.load.fingerprint`)."""
        return self.origin.fingerprint()

    @cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """What identifies the weights of "backbone", "heads", "branch" and "tokenizer"; None for what no file has."""
        return self.origin.fingerprints(self.config)

    def numerics(self) -> dict[str, str]:
        """What the bits of an image depend on besides weights and options."""
        return {**describe(self.dtype, self.quantize), "attention": self.attention}

    def made_with(self) -> dict[str, dict[str, Any]]:
        """The weights, numerics and versions, on which images depend beside their options; JSON, for records."""
        return {
            "model": {"weights": self.origin.name, **self.fingerprints},
            "numerics": self.numerics(),
            "versions": {"ssd_jax": VERSION, "jax": jax.__version__, "device": jax.devices()[0].device_kind},
        }

    @property
    def quantize(self) -> str:
        """How the backbone's matrices are quantised: "int8", or "" if they are not."""
        return "int8" if any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(self.params)) else ""
