"""The vertical branch, which predicts the code below an input, as the backbone predicts the next one.

Source: FlashAR, arXiv 2605.09430.
"""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.models.block import Block, run_blocks
from ssd_jax.models.config import BranchConfig, ConfigError, ModelConfig
from ssd_jax.models.layers import RMSNorm, along_last, named, parameter, replicated, rotary_angles
from ssd_jax.models.matmul import Products
from ssd_jax.models.visual_adapters import VisualMLP
from ssd_jax.sequence.cache import KVCache


class VerticalBranch(nn.Module):
    """Blocks, norm and output head beside the backbone's last ones, and a gate between both predictions.

    A code that has a left and an upper neighbour is predicted from both, by the logits

        s * logits of the backbone at the left one + (1 - s) * logits of the branch at the upper one,
        s = sigmoid(w . silu(A [normed state of the backbone ; normed state of the branch]) + b)

    A is 2D -> max(64, D/8), w and b start as 0. The branch sees the image alone, not the prompt, as released: what it
    knows of the prompt is in the states that it begins with.

    Attributes:
        config: sizes of the backbone.
        branch: its own.
        products: how matrices are multiplied (see `models.matmul`).
        block: the class of its blocks, as for `Transformer`.
    """

    config: ModelConfig
    branch: BranchConfig
    products: Products = Products()
    block: type[Block] = Block

    def setup(self):
        c, D = self.config, self.config.width
        self.blocks = [self.block(c, self.products, name=f"block_{index}") for index in range(self.branch.layers)]
        self.final_norm = RMSNorm(c.norm_eps)
        if c.head_width:
            self.visual_mlp = VisualMLP(c, self.products)
        else:
            self.visual_head = parameter(self, "visual_head", (c.visual_size, D), ("visual", "embed"), D**-0.5)
        narrow, scale = max(64, D // 8), nn.initializers.normal((2 * D) ** -0.5)
        self.gate_in = named(self, "gate_in", scale, ("seen", "source"), (narrow, 2 * D))
        self.gate_out = named(self, "gate_out", nn.initializers.zeros, ("norm", "seen"), (1, narrow))
        self.gate_bias = named(self, "gate_bias", nn.initializers.zeros, ("norm",), (1,))

    def hidden(
        self,
        x: Float32[Array, "B W D"],
        positions: Int32[Array, "B W"],
        mask: Bool[Array, "B W T"],
        slots: Int32[Array, "B W"] | None = None,
        cache: KVCache | None = None,
        length: int = 0,
    ) -> tuple[Float32[Array, "B W D"], KVCache | None]:
        """Runs the blocks; arguments and results as for `Transformer.hidden`, but x are the backbone's states before
        its last blocks, and the branch has the layers of the cache after the backbone's. Positions are below `length`,
        by default T."""
        c = self.config
        angles = rotary_angles(positions, length or mask.shape[-1], c.head_dim, c.rope_theta)
        return run_blocks(self.blocks, c.layers, x, angles, mask, slots, cache, self.gate_in.dtype)

    def logits(self, hidden: Float[Array, "*axes D"]) -> Float32[Array, "*axes V"]:
        """Visual logits of the codes below."""
        normed = self.final_norm(hidden)
        if self.config.head_width:
            return replicated(self.visual_mlp(normed))
        return replicated(self.products.linear(normed, self.visual_head))

    def gate(self, normed: Float32[Array, "*axes D"], below: Float32[Array, "*axes D"]) -> Float32[Array, "*axes 1"]:
        """The share s of the backbone's logits, from its normed states and the branch's states, which predict the same
        codes."""
        both = jnp.concatenate([normed, self.final_norm(below)], axis=-1)
        seen = nn.silu(self.products.linear(both, self.gate_in))
        score = self.products.linear(seen, self.gate_out)
        score += along_last(self.gate_bias.astype(jnp.float32), score)
        return replicated(nn.sigmoid(score))

    def __call__(self, x: Float32[Array, "B W D"]) -> Float32[Array, "B W V"]:
        """Touches every parameter."""
        B, W, _ = x.shape
        positions = jnp.broadcast_to(jnp.arange(W, dtype=jnp.int32), (B, W))
        below, _ = self.hidden(x, positions, jnp.ones((B, W, W), bool))
        return self.gate(x, below) * self.logits(below)


def mixed(
    gate: Float32[Array, "B W 1"],
    left: Float32[Array, "B W V"],
    above: Float32[Array, "B W V"],
    positions: Int32[Array | np.ndarray, "B W"],
    cols: int,
) -> Float32[Array, "B W V"]:
    """The logits of the codes at `positions`, from those at their left and upper neighbours; `cols` is the grid's C.

    In grid row 0 they are those of the left one alone; for position 0, those of the prompt. In column 0 they are those
    of the upper one alone. (The released code mixes two for position 0 as well, with a gate of its own; the backbone's
    are what `ar` draws it from.)
    """
    row, col = (index[..., None] for index in (positions // cols, positions % cols))
    share = jnp.where(row == 0, 1.0, jnp.where(col == 0, 0.0, gate))
    return share * left + (1.0 - share) * above


def require_fits(config: ModelConfig, branch: BranchConfig, where: str = "") -> None:
    """Raises `ConfigError` if a branch has more layers than its backbone; `where` begins the message."""
    if branch.layers > config.layers:
        raise ConfigError(
            f"{where}a vertical branch of {branch.layers} layers is longer than the backbone, of {config.layers}."
        )


@functools.lru_cache
def boxed_branch(config: ModelConfig, branch: BranchConfig) -> Any:
    """Shapes of the parameters, boxed by flax with their axis names; allocates nothing. Cached; do not modify it."""
    require_fits(config, branch)
    x = jnp.zeros((1, 1, config.width))
    return jax.eval_shape(lambda: VerticalBranch(config, branch).init(jax.random.key(0), x))


def init_branch(config: ModelConfig, branch: BranchConfig, backbone: Any, key: jax.Array) -> Any:
    """Parameters of an untrained branch: copies of the backbone's last blocks, its norm and its output head."""
    shapes, source = (
        cast(dict[tuple[str, ...], Any], traverse_util.flatten_dict(tree["params"]))
        for tree in (nn.unbox(boxed_branch(config, branch)), backbone)
    )
    shift, out = config.layers - branch.layers, {}
    for path, leaf in shapes.items():
        if path[0].startswith("block_"):
            out[path] = source[f"block_{int(path[0].removeprefix('block_')) + shift}", *path[1:]]
        elif path in source:
            out[path] = source[path]
        elif path == ("gate_in",):
            out[path] = jax.random.normal(key, leaf.shape) * leaf.shape[1] ** -0.5
        else:
            out[path] = jnp.zeros(leaf.shape)
    return {"params": traverse_util.unflatten_dict(out)}
