"""Draft heads, which predict the hidden state of a position further right or further down (arXiv 2606.20543)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32, PRNGKeyArray, Shaped

from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.int8 import Int8, fetch
from ssd_jax.models.layers import along_last, named
from ssd_jax.models.matmul import Products
from ssd_jax.sampling.reductions import inverse_rms


class DraftHeads(nn.Module):
    """One draft head per offset of `HeadsConfig.offsets`, stacked along axis 0 (letter O).

        z = [h_i ; e_i];  y = W0 z;  out = y + SwiGLU(RMSNorm(y))

    W0 is initialised to [I 0] and the SwiGLU's output to 0, so an untrained head copies its source's hidden state.

    When a grid row is drafted, all of the row above it is known. With `config.context` = c a vertical head sees the
    columns x-c .. x+c of its source's row (ours, not published; letter N for the 2c+1 of them):

        out = y + SwiGLU(RMSNorm(y)) + B silu([A_{-c} a_{x-c} ; ... ; A_c a_{x+c}]),   a = [RMSNorm(h) ; RMSNorm(e)]

    A_n is 2D -> D/4; columns outside the row, or not among the given sources, count as 0. B starts as 0.

    Attributes:
        config: offsets and context.
        width: D of the backbone.
        eps: epsilon of the norms, the backbone's own.
        products: how matrices are multiplied (see `models.matmul`).
    """

    config: HeadsConfig
    width: int
    eps: float = 1e-5
    products: Products = Products()

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array | np.ndarray, "B X D"],
        embeddings: Float[Array | np.ndarray, "B X D"],
        columns: Int32[Array | np.ndarray, "B X"],
        which: tuple[int, ...] | None = None,
    ) -> Float32[Array, "O B X D"]:
        """Predicted hidden states before the final norm.

        Args:
            hidden: h_i before the final norm, the states that predicted tokens i; the X sources are consecutive in
                raster order.
            embeddings: e_i, the input embeddings of tokens i.
            columns: the sources' columns in the grid.
            which: the draft heads to run, as indices into `config.offsets`; None runs all.
        Returns:
            one predicted state per head in `which` and source.
        """
        offsets, D, linear = len(self.config.offsets), self.width, self.products.linear
        which = tuple(range(offsets)) if which is None else which
        w0 = self._stack("w0", _copy_hidden, ("embed", "source"), offsets, D, 2 * D)
        gate = self._stack("gate", nn.initializers.normal(D**-0.5), ("mlp", "embed"), offsets, D, D)
        up = self._stack("up", nn.initializers.normal(D**-0.5), ("mlp", "embed"), offsets, D, D)
        down = self._stack("down", nn.initializers.zeros, ("embed", "mlp"), offsets, D, D)
        scale = named(self, "norm", nn.initializers.ones, ("offset", "norm"), (offsets, D))
        context = self._context(hidden, embeddings, columns, which)

        sources = jnp.concatenate([hidden, embeddings], axis=-1)
        out = []
        for head in which:
            y = linear(sources, w0[head])
            normed = _rms(y, self.eps) * along_last(scale[head].astype(jnp.float32), y)
            y = y + linear(nn.silu(linear(normed, gate[head])) * linear(normed, up[head]), down[head])
            out.append(y + context[head] if head in context else y)
        return jnp.stack(out)

    def _context(
        self,
        hidden: Float[Array | np.ndarray, "B X D"],
        embeddings: Float[Array | np.ndarray, "B X D"],
        columns: Int32[Array | np.ndarray, "B X"],
        which: tuple[int, ...],
    ) -> dict[int, Float32[Array, "B X D"]]:
        """The context term of each vertical draft head in `which`."""
        D, c, vertical, first = self.width, self.config.context, self.config.vertical, self.config.horizontal
        if not (c and vertical):
            return {}
        narrow = max(D // 4, 1)
        see_axes = ("column", "seen", "source")
        see = self._stack("see", nn.initializers.normal((2 * D) ** -0.5), see_axes, vertical, 2 * c + 1, narrow, 2 * D)
        use = self._stack("use", nn.initializers.zeros, ("embed", "seen"), vertical, D, (2 * c + 1) * narrow)
        sources = jnp.concatenate([_rms(hidden, self.eps), _rms(embeddings, self.eps)], axis=-1)
        added = {}
        for head in (head for head in which if head >= first):
            # Projected before it is shifted, so that an eighth of the numbers are moved.
            seen = self.products.linear(sources, see[head - first])
            beside = [neighbours(seen[:, :, n], columns, n - c) for n in range(2 * c + 1)]
            added[head] = self.products.linear(nn.silu(jnp.concatenate(beside, axis=-1)), use[head - first])
        return added

    def _stack(self, name: str, init: nn.initializers.Initializer, axes: tuple[str, ...], *shape: int) -> Array | Int8:
        """A parameter with one array per draft head in axis 0; `axes` are the logical names of the other axes."""
        return fetch(self, name, named(self, name, init, ("offset", *axes), shape))


def init_boxed(heads: DraftHeads, key: PRNGKeyArray) -> Any:
    """Parameters of untrained draft heads, boxed by flax with their axis names."""
    x, columns = jnp.zeros((1, 1, heads.width)), jnp.zeros((1, 1), jnp.int32)
    return heads.init(key, x, x, columns)


def init_heads(heads: DraftHeads, key: PRNGKeyArray) -> Any:
    """Parameters of untrained draft heads, which copy the hidden state of their source."""
    return nn.unbox(jax.jit(init_boxed, static_argnums=0)(heads, key))  # one program, not one per operation


def neighbours(
    values: Shaped[Array, "*more B X Z"], columns: Int32[Array | np.ndarray, "B X"], away: int
) -> Shaped[Array, "*more B X Z"]:
    """The values `away` columns to the right (negative: to the left) in the same grid row; 0 where there are none.

    Args:
        values: one per source; the sources are consecutive in raster order.
        columns: the sources' columns.
        away: distance, at most X.
    """
    X = columns.shape[1]
    before, after = max(-away, 0), max(away, 0)
    there = jnp.pad(columns, ((0, 0), (before, after)), constant_values=-1)[:, after : after + X]
    moved = jnp.pad(values, (*((0, 0),) * (values.ndim - 2), (before, after), (0, 0)))[..., after : after + X, :]
    # Columns restart at 0 in the next grid row, so a shift across the border gives a column that does not match.
    return jnp.where((there == columns + away)[..., None], moved, 0)


def _rms(x: Float[Array | np.ndarray, "*axes"], eps: float) -> Float32[Array, "*axes"]:
    """Root-mean-square normalised over the last axis."""
    x = jnp.asarray(x, jnp.float32)
    return x * inverse_rms(x, eps)


@functools.lru_cache
def boxed_heads(config: HeadsConfig, width: int) -> Any:
    """Shapes of the parameters, boxed by flax with their axis names; allocates nothing. Cached; do not modify it."""
    return jax.eval_shape(lambda: init_boxed(DraftHeads(config, width), jax.random.key(0)))


def abstract_heads(config: HeadsConfig, width: int) -> Any:
    """Shapes of the parameters, a pytree of `jax.ShapeDtypeStruct`; allocates nothing."""
    return nn.unbox(boxed_heads(config, width))


def _copy_hidden(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, "offsets D source"]:
    """[I 0] for every offset."""
    del key
    offsets, D, _ = shape
    eye = jnp.concatenate([jnp.eye(D, dtype=dtype), jnp.zeros((D, D), dtype)], axis=1)
    return jnp.broadcast_to(eye, (offsets, D, 2 * D))
