"""A backbone with a vertical branch: a pass over anti-diagonals, and the logits from both neighbours of a code.

Decoding and training run it, over a cache and over entire sequences. Parameters are {"backbone": ..., "branch": ...}.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.models.block import Block
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
        block: the class of their blocks, as for `Transformer`.
    """

    config: ModelConfig
    branch: BranchConfig
    products: Products = Products()
    block: type[Block] = Block

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
            slots: their slots; without a cache all batch rows have the same.
            starts: first real slot of each batch row.
            first: slot of grid position 0.
            layout: the image's.
            cache: keys and values so far, or None to attend to the inputs alone.
        Returns:
            the backbone's states, the branch's, and the cache with the inputs written in.
        """
        right, before, cache = self.right(params, x, slots, starts, first, layout, cache)
        below, cache = self.below(params, before, slots, starts, first, layout, cache)
        return right, below, cache

    def right(
        self,
        params: Any,
        x: Float[Array, "B W D"],
        slots: Int32[Array, "B W"],
        starts: Int32[Array, " B"],
        first: int,
        layout: Layout,
        cache: KVCache | None = None,
    ) -> tuple[Float32[Array, "B W D"], Float32[Array, "B W D"], KVCache | None]:
        """The backbone alone, see `hidden`: its states, those where the branch begins, and the cache."""
        seen, rotary, written = self._seen(slots, starts, first, layout, cache)
        with jax.named_scope("verify"):
            return self._backbone(params, x, rotary, seen, written, cache, self.branch.layers, method="forked")

    def below(
        self,
        params: Any,
        before: Float32[Array, "B W D"],
        slots: Int32[Array, "B W"],
        starts: Int32[Array, " B"],
        first: int,
        layout: Layout,
        cache: KVCache | None = None,
    ) -> tuple[Float32[Array, "B W D"], KVCache | None]:
        """The branch alone, from the states where it begins; see `hidden`."""
        seen, rotary, written = self._seen(slots, starts, first, layout, cache)
        keys = _keys(slots, cache)[None, None]
        image = seen & ((keys >= first) | (keys == slots[:, :, None]))
        with jax.named_scope("branch"):
            length = first + layout.length
            return self._branch(params, before, rotary, image, written, cache, length, method="hidden")

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

    @staticmethod
    def _seen(
        slots: Int32[Array, "B W"], starts: Int32[Array, " B"], first: int, layout: Layout, cache: KVCache | None
    ) -> tuple[Bool[Array, "B W T"], Int32[Array, "B W"], Int32[Array, "B W"] | None]:
        """What inputs see, their rotary positions, and the slots to write."""
        seen = diagonal(slots, _keys(slots, cache), starts, first, layout.pitch, layout.grid.cols)
        return seen, rotary_positions(slots, starts), None if cache is None else slots

    def _backbone(self, params: Any, *arguments: Any, method: str) -> Any:
        module = Transformer(self.config, self.products, self.block)
        return module.apply(params["backbone"], *arguments, method=method)

    def _branch(self, params: Any, *arguments: Any, method: str) -> Any:
        module = VerticalBranch(self.config, self.branch, self.products, self.block)
        return module.apply(params["branch"], *arguments, method=method)


def _keys(slots: Int32[Array, "B W"], cache: KVCache | None) -> Int32[Array, " T"]:
    """The slots of what can be seen: the whole cache, or the inputs themselves."""
    return slots[0] if cache is None else jnp.arange(cache.length, dtype=jnp.int32)
