"""A backbone with a vertical branch: a pass over anti-diagonals, and the logits from both neighbours of a code.

Decoding and training run it, over a cache and over entire sequences. Parameters are {"backbone": ..., "branch": ...}.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.models.branch import VerticalBranch, mixed
from ssd_jax.models.config import BranchConfig, ModelConfig
from ssd_jax.models.matmul import Products
from ssd_jax.models.transformer import Transformer
from ssd_jax.sequence.cache import KVCache
from ssd_jax.sequence.layout import Layout, rotary_positions
from ssd_jax.sequence.masks import diagonal


@dataclasses.dataclass(frozen=True)
class Forked:
    """Both models, without parameters.

    Attributes:
        config, branch: their configs.
        products: how matrices are multiplied (see `models.matmul`).
    """

    config: ModelConfig
    branch: BranchConfig
    products: Products = Products()

    def hidden(
        self,
        params: Any,
        x: Float[Array, "B W D"],
        slots: Int32[Array, "B W"],
        starts: Int32[Array, " B"],
        first: int,
        layout: Layout,
        cache: KVCache | None = None,
    ) -> tuple[Float32[Array, "B W D"], Float32[Array, "B W D"], KVCache | None]:
        """Runs both over inputs, each of which sees what `sequence.masks.diagonal` shows it; the branch sees the image
        alone.

        Args:
            params: of both.
            x: input embeddings.
            slots: their slots; without a cache they are 0 .. W - 1.
            starts: first real slot of each batch row.
            first: slot of grid position 0.
            layout: the image's.
            cache: keys and values so far, or None to attend to the inputs alone.
        Returns:
            the backbone's states, the branch's, and the cache with the inputs written in.
        """
        keys = jnp.arange(x.shape[1] if cache is None else cache.length, dtype=jnp.int32)
        rotary, written = rotary_positions(slots, starts), None if cache is None else slots
        seen = diagonal(slots, keys, starts, first, layout.pitch, layout.grid.cols)
        image = seen & ((keys[None, None] >= first) | (keys[None, None] == slots[:, :, None]))
        with jax.named_scope("verify"):
            given = x, rotary, seen, written, cache, self.branch.layers
            right, before, cache = self._backbone(params, *given, method="forked")
        with jax.named_scope("branch"):
            below, cache = self._branch(params, before, rotary, image, written, cache, method="hidden")
        return right, below, cache

    def logits(
        self,
        params: Any,
        left: Float[Array, "B W D"],
        above: Float[Array, "B W D"],
        positions: Int32[Array | np.ndarray, "B W"],
        cols: int,
    ) -> tuple[Float32[Array, "B W V"], Float32[Array, "B W V"]]:
        """Logits of the codes at `positions`, from the backbone's states at their left neighbours and the branch's at
        their upper ones (see `models.branch.mixed`), and those from the upper ones alone."""
        gate = self._branch(params, self._backbone(params, left, method="normed"), above, method="gate")
        from_left = self._backbone(params, left, method="logits")
        from_above = self._branch(params, above, method="logits")
        return mixed(gate, from_left, from_above, positions, cols), from_above

    def _backbone(self, params: Any, *arguments: Any, method: str) -> Any:
        return Transformer(self.config, self.products).apply(params["backbone"], *arguments, method=method)

    def _branch(self, params: Any, *arguments: Any, method: str) -> Any:
        module = VerticalBranch(self.config, self.branch, self.products)
        return module.apply(params["branch"], *arguments, method=method)
