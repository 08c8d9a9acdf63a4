"""Bundles parameters with their static configuration, for backbone and draft heads, as pytrees."""

from typing import Any, cast

import flax.struct
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.draft_heads import DraftHeads
from ssd_jax.models.transformer import Transformer


@flax.struct.dataclass
class LoadedHeads:
    """Draft heads with their parameters.

    Attributes:
        params: of `models.draft_heads.DraftHeads`; arrays, or shapes where there are no weights.
        config: offsets and context (static).
        width, eps: the backbone's D and epsilon of the norms (static).
    """

    params: Any
    config: HeadsConfig = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)
    eps: float = flax.struct.field(pytree_node=False)

    def predict(
        self,
        hidden: Float[Array, "B X D"],
        embeddings: Float[Array, "B X D"],
        columns: Int32[Array, "B X"],
        which: tuple[int, ...],
    ) -> Float32[Array, "O B X D"]:
        """See `models.draft_heads.DraftHeads`."""
        module = DraftHeads(self.config, self.width, self.eps)
        return cast(Array, module.apply(self.params, hidden, embeddings, columns, which))


@flax.struct.dataclass
class LoadedModel:
    """A backbone with its parameters, with or without draft heads.

    Attributes:
        params: of `models.transformer.Transformer`; arrays, or shapes where there are no weights.
        config: its sizes and ids (static).
        heads: the draft heads, or None.
    """

    params: Any
    config: ModelConfig = flax.struct.field(pytree_node=False)
    heads: LoadedHeads | None = None

    @classmethod
    def of(
        cls, config: ModelConfig, params: Any, heads: HeadsConfig | None = None, heads_params: Any = None
    ) -> "LoadedModel":
        """Builds one from separately loaded parameters; `heads` None is without draft heads."""
        drafters = None if heads is None else LoadedHeads(heads_params, heads, config.width, config.norm_eps)
        return cls(params, config, drafters)

    @property
    def head_counts(self) -> tuple[int, int]:
        """Numbers of horizontal and vertical draft heads."""
        return (0, 0) if self.heads is None else (self.heads.config.horizontal, self.heads.config.vertical)

    def apply(self, *arguments: Any, method: str) -> Any:
        """Calls a method of `models.transformer.Transformer`."""
        return Transformer(self.config).apply(self.params, *arguments, method=method)
