"""The backbone: a Llama-style decoder whose output head predicts visual codes only."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.errors import UserError
from ssd_jax.models.block import Block, run_blocks
from ssd_jax.models.config import NONE, UNKNOWN, ModelConfig
from ssd_jax.models.layers import ACTIVATION, RMSNorm, named, parameter, replicated, rotary_angles
from ssd_jax.models.matmul import Products
from ssd_jax.models.visual_adapters import CodeEmbedding, VisualMLP
from ssd_jax.sequence.cache import KVCache
from ssd_jax.sequence.layout import Grid, Layout


class Transformer(nn.Module):
    """ids -> hidden states -> visual logits.

    `hidden` gives the last block's output before the final norm (h in the papers), which is what draft heads predict;
    `logits` applies the final norm and the output head to any such state.

    Attributes:
        config: sizes.
        products: how matrices are multiplied (see `models.matmul`).
        block: the class of its blocks, `models.block.Block` or `RECOMPUTED`.
    """

    config: ModelConfig
    products: Products = Products()
    block: type[Block] = Block

    def setup(self):
        c = self.config
        table = nn.initializers.normal(c.width**-0.5)
        self.embedding = named(self, "embedding", table, ("vocab", "table"), (c.vocab_size, c.width))
        self.blocks = [self.block(c, self.products, name=f"block_{index}") for index in range(c.layers)]
        self.final_norm = RMSNorm(c.norm_eps)
        if c.code_width:
            self.code_embedding = CodeEmbedding(c, self.products)
        if c.places:
            self.place_rows = named(self, "place_rows", nn.initializers.zeros, ("place", "table"), (c.rows, c.width))
            self.place_cols = named(self, "place_cols", nn.initializers.zeros, ("place", "table"), (c.cols, c.width))
        if c.head_width:
            self.visual_mlp = VisualMLP(c, self.products)
        else:
            shape, axes = (c.visual_size, c.width), ("visual", "embed")
            self.visual_head = parameter(self, "visual_head", shape, axes, c.width**-0.5)

    def embed(self, ids: Int32[Array | np.ndarray, "*axes"] | int) -> Float32[Array, "*axes D"]:
        """Input embeddings of vocabulary ids, or of one id."""
        return self.embedding[ids].astype(jnp.float32)

    def embed_codes(self, codes: Int32[Array | np.ndarray, "*axes"]) -> Float32[Array, "*axes D"]:
        """Input embeddings of codes."""
        if self.config.code_width:
            return self.code_embedding(codes)
        return self.embed(codes + self.config.visual_offset)

    def embed_image(
        self, codes: Int32[Array | np.ndarray, "*axes"], positions: Int32[Array | np.ndarray, "..."], cols: int
    ) -> Float32[Array, "*axes D"]:
        """Input embeddings of codes at grid positions of an image with `cols` columns, as the blocks take them."""
        x = self.embed_codes(codes)
        if not self.config.places:
            return x
        for table, index in ((self.place_rows, positions // cols), (self.place_cols, positions % cols)):
            x += table.at[index].get(mode="clip").astype(jnp.float32)
        return x

    def hidden(
        self,
        x: Float32[Array, "B W D"],
        positions: Int32[Array, "B W"],
        mask: Bool[Array, "B W T"],
        slots: Int32[Array, "B written"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float32[Array, "B W D"], KVCache | None]:
        """Runs the blocks over a window.

        Args:
            x: input embeddings.
            positions: rotary positions.
            mask: which slots every position sees; T is the cache length, or W without a cache.
            slots: cache slots to write; required with a cache. Inputs after those with a slot are not written; each of
                them sees itself and what the mask allows, which may have further columns for them.
            cache: keys and values so far, or None to attend within the window alone.
        Returns:
            hidden states before the final norm, and the cache with the window written in.
        """
        hidden, _, cache = self.forked(x, positions, mask, slots, cache)
        return hidden, cache

    def forked(
        self,
        x: Float32[Array, "B W D"],
        positions: Int32[Array, "B W"],
        mask: Bool[Array, "B W T"],
        slots: Int32[Array, "B written"] | None = None,
        cache: KVCache | None = None,
        above: int = 0,
    ) -> tuple[Float32[Array, "B W D"], Float32[Array, "B W D"], KVCache | None]:
        """The same, with the states before the last `above` blocks in the middle: a vertical branch begins there.
        Layers of the cache beyond those of the blocks stay as they are."""
        angles = rotary_angles(positions, mask.shape[-1], self.config.head_dim, self.config.rope_theta)
        fork, rest = len(self.blocks) - above, (angles, mask, slots)
        x = nn.with_logical_constraint(x, ACTIVATION)
        before, cache = run_blocks(self.blocks[:fork], 0, x, *rest, cache, self.embedding.dtype)
        x, cache = run_blocks(self.blocks[fork:], fork, before, *rest, cache, self.embedding.dtype)
        return x, before, cache

    def normed(self, hidden: Float[Array, "*axes D"]) -> Float32[Array, "*axes D"]:
        """Hidden states as the output head takes them."""
        return self.final_norm(hidden)

    def logits(self, hidden: Float[Array, "*axes D"]) -> Float32[Array, "*axes V"]:
        """Visual logits; those of a sharded model are replicated on every device."""
        with jax.named_scope("visual_head"):
            normed = self.final_norm(hidden)
            if self.config.head_width:
                logits = self.visual_mlp(normed)
            else:
                logits = self.products.linear(normed, self.visual_head)
            return replicated(logits)

    def __call__(self, ids: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """Causal logits of entire sequences; touches every parameter."""
        B, W = ids.shape
        positions = jnp.broadcast_to(jnp.arange(W, dtype=jnp.int32), (B, W))
        mask = jnp.broadcast_to(jnp.tri(W, dtype=bool), (B, W, W))
        if self.is_initializing():
            self.embed_image(ids[:, :1], jnp.zeros_like(ids[:, :1]), self.config.cols)
        return self.logits(self.hidden(self.embed(ids), positions, mask)[0])


@functools.lru_cache  # tracing `init` takes a second for a large model
def boxed_backbone(config: ModelConfig) -> Any:
    """Shapes of the parameters, boxed by flax with their axis names; allocates nothing. Cached; do not modify it."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda: Transformer(config).init(jax.random.key(0), ids))


def abstract_backbone(config: ModelConfig) -> Any:
    """Shapes of the parameters, a pytree of `jax.ShapeDtypeStruct`; allocates nothing."""
    return nn.unbox(boxed_backbone(config))


def layout_of(config: ModelConfig, grid: Grid) -> Layout:
    """The layout of an image's tokens in this backbone's sequence; raises `UserError` if its row ends have no id."""
    if config.row_end_id == UNKNOWN:
        raise UserError('No file of the checkpoint names the row-end token; give its id as tokens={"row_end": ...}.')
    return Layout(grid, row_ends=config.row_end_id != NONE)
