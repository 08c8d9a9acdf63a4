"""Bundles parameters with their static configuration, for the backbone and what was trained beside it, as pytrees."""

from typing import Any, cast

import flax.struct
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.models.config import BranchConfig, HeadCounts, HeadsConfig, ModelConfig
from ssd_jax.models.draft_heads import DraftHeads
from ssd_jax.models.forked import Forked
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
class LoadedBranch:
    """A vertical branch with its parameters.

    Attributes:
        params: of `models.branch.VerticalBranch`; arrays, or shapes where there are no weights.
        config: its number of layers (static).
    """

    params: Any
    config: BranchConfig = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class LoadedModel:
    """A backbone with its parameters, with or without draft heads and a vertical branch.

    Attributes:
        params: of `models.transformer.Transformer`; arrays, or shapes where there are no weights.
        config: its sizes and ids (static).
        heads: the draft heads, or None.
        branch: the vertical branch, or None.
    """

    params: Any
    config: ModelConfig = flax.struct.field(pytree_node=False)
    heads: LoadedHeads | None = None
    branch: LoadedBranch | None = None

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        params: Any,
        heads: HeadsConfig | None = None,
        heads_params: Any = None,
        branch: BranchConfig | None = None,
        branch_params: Any = None,
    ) -> "LoadedModel":
        """Builds one from separately loaded parameters; `heads` None is without draft heads, `branch` None without a
        vertical branch."""
        drafters = None if heads is None else LoadedHeads(heads_params, heads, config.width, config.norm_eps)
        return cls(params, config, drafters, None if branch is None else LoadedBranch(branch_params, branch))

    @property
    def head_counts(self) -> HeadCounts:
        """Numbers of draft heads, and of the vertical branch's layers."""
        heads = None if self.heads is None else self.heads.config
        return HeadCounts.of(heads, None if self.branch is None else self.branch.config)

    @property
    def branch_layers(self) -> int:
        """Number of the vertical branch's layers, 0 without one."""
        return self.head_counts.branch_layers

    def apply(self, *arguments: Any, method: str) -> Any:
        """Calls a method of `models.transformer.Transformer`."""
        return Transformer(self.config).apply(self.params, *arguments, method=method)

    @property
    def forked(self) -> Forked:
        """The backbone with its vertical branch."""
        assert self.branch is not None
        return Forked(self.config, self.branch.config)

    @property
    def both(self) -> dict[str, Any]:
        """The parameters of `forked`."""
        assert self.branch is not None
        return {"backbone": self.params, "branch": self.branch.params}
