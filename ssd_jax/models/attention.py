"""Attention over the key/value cache, and the table of its implementations."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.models.config import ModelConfig
from ssd_jax.models.layers import QK_NORMS, Angles, parameter, rotate
from ssd_jax.models.matmul import Products
from ssd_jax.sampling.reductions import largest, softmax, total
from ssd_jax.sequence import cache

MASKED = -1e30
"""A finite score for masked slots, so that a softmax never becomes NaN."""

LIMIT = 2**28
"""The most scores at once of a sequence without a cache, as in training: a gigabyte in float32. An image of Emu3 has
two thousand million of them."""

LayerCache = tuple[Float[Array, "B _ _ H"], Float[Array, "B _ _ H"]]
"""Keys and values of a layer, with the axis order of `sequence.cache.AXES`."""


def plain(
    q: Float[Array, "B W N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    mask: Bool[Array, "B W T"],
    products: Products,
) -> Float32[Array, "B W N H"]:
    """Masked softmax attention that materialises the scores."""
    weights = softmax(_scores(q, keys, mask, "bkth", products))
    return _by_head(_weighted(weights, values, "bkth", products))


def in_parts(
    q: Float[Array, "B W N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    mask: Bool[Array, "B W T"],
    products: Products,
) -> Float32[Array, "B W N H"]:
    """The same over whole sequences: if there are more than `LIMIT` scores, a part of the queries at a time, whose
    scores are computed again for their gradients. Sharding is not considered."""
    (B, W, N, _), T = q.shape, mask.shape[-1]
    rows = max(1, LIMIT // max(1, B * N * T))
    if W <= rows:
        return plain(q, keys, values, mask, products)
    count = -(-W // rows)
    rows = -(-W // count)

    def parts(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, count * rows - W), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(B, count, rows, *x.shape[2:]).swapaxes(0, 1)

    attend = jax.checkpoint(lambda part: plain(part[0], keys, values, part[1], products))
    out = jax.lax.map(attend, (parts(q), parts(mask)))
    return out.swapaxes(0, 1).reshape(B, count * rows, *out.shape[3:])[:, :W]


def _scores(
    q: Float[Array, "B W N H"], keys: Float[Array, "B _ _ H"], mask: Bool[Array, "B W T"], axes: str, products: Products
) -> Float32[Array, "B K group W T"]:
    """Scaled and masked scores; `axes` are the keys', "bkth" or "btkh"."""
    B, W, N, H = q.shape
    K = keys.shape[axes.index("k")]
    # The query heads of one key/value head and the window together are the rows of one matrix product.
    rows = q.reshape(B, W, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    scores = products.batched(f"bkrh,{axes}->bkrt", rows, keys).reshape(B, K, N // K, W, -1)
    return jnp.where(mask[:, None, None], scores * H**-0.5, MASKED)


def _weighted(
    weights: Float32[Array, "B K group W T"], values: Float[Array, "B _ _ H"], axes: str, products: Products
) -> Float32[Array, "B K group W H"]:
    """The values' weighted sums."""
    B, K, group, W, _ = weights.shape
    out = products.batched(f"bkrt,{axes}->bkrh", weights.reshape(B, K, group * W, -1), values)
    return out.reshape(B, K, group, W, -1)


def _by_head(out: Float32[Array, "B K group W H"]) -> Float32[Array, "B W N H"]:
    B, K, group, W, H = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(B, W, K * group, H)


def fused(
    q: Float[Array, "B W N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    mask: Bool[Array, "B W T"],
    products: Products,
) -> Float32[Array, "B W N H"]:
    """The same with `jax.nn.dot_product_attention`; on NVIDIA GPUs it runs cuDNN, which never writes the scores to
    memory and accepts only 16-bit keys and values. The result is rounded to their dtype."""
    del products  # operands have the dtype of the cache
    if jax.default_backend() == "cpu":
        # Not for speed: with the options of `compiling`, XLA has no CPU products with bfloat16 results.
        keys, values = keys.astype(jnp.float32), values.astype(jnp.float32)
    implementation = "cudnn" if jax.default_backend() == "gpu" and keys.dtype.itemsize == 2 else "xla"
    out = jax.nn.dot_product_attention(
        q.astype(keys.dtype), keys, values, mask=mask[:, None], scale=q.shape[-1] ** -0.5, implementation=implementation
    )
    return out.astype(jnp.float32)


ATTENTIONS: dict[str, Callable[..., Float32[Array, "B W N H"]]] = {"plain": plain, "fused": fused}
"""Name -> implementation; the axis order of a cache belongs to one of them (`sequence.cache.AXES`)."""


def with_own(
    q: Float[Array, "B W N H"],
    k: Float[Array, "B W K H"],
    v: Float[Array, "B W K H"],
    layer: LayerCache,
    mask: Bool[Array, "B W T"],
    written: int,
    attention: str,
    products: Products,
) -> Float32[Array, "B W N H"]:
    """Attention of a window of which only the first `written` inputs are in the cache; each of the others also attends
    to itself, or to those that the mask's further columns name. The first have the bits that `plain` gives them.

    Args:
        q, k, v: of the window; q and k rotated.
        layer: the cache, in the axis order of `attention`.
        mask: the slots that each may attend to, and after them, if there are more columns, which of the others.
        written: how many are in the cache.
        attention: one of `ATTENTIONS`.
        products: how to multiply.
    """
    B, W, N, H = q.shape
    K, axes = k.shape[2], "bkth" if attention == "plain" else "btkh"
    keys, values = layer
    mask, among = jnp.split(mask, [keys.shape[axes.index("t")]], axis=2)
    scores = _scores(q, keys, mask, axes, products)
    alone = not among.shape[2]
    k, v = (x.astype(keys.dtype) for x in (k, v))  # as in a cache
    if alone:
        k, v = (x.astype(jnp.float32) for x in (k, v))
        own = jnp.einsum("bwkgh,bwkh->bkgw", q.reshape(B, W, K, N // K, H), k) * H**-0.5
        others = jnp.where(jnp.arange(W, dtype=jnp.int32) < written, MASKED, own)[..., None]
    else:
        # Sharded like the cache: else XLA shards that in another way, too, and gathers it in every pass.
        k, v = (nn.with_logical_constraint(x[:, written:], cache.AXES["fused"]) for x in (k, v))
        others = _scores(q, k, among, "btkh", products)
    # One softmax over both, without concatenating them; to what is written, `others` adds 0.
    highest = jnp.maximum(largest(scores), largest(others))
    weights, others = jnp.exp(scores - highest), jnp.exp(others - highest)
    sums = total(weights) + total(others)
    out = _weighted(weights / sums, values, axes, products)
    if alone:
        return _by_head(out + others / sums * v.transpose(0, 2, 1, 3)[:, :, None])
    return _by_head(out + _weighted(others / sums, v, "btkh", products))


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, over a cache or within the window."""

    config: ModelConfig
    products: Products = Products()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B W D"],
        angles: Angles,
        mask: Bool[Array, "B W T"],
        slots: Int32[Array, "B written"] | None,
        layer: LayerCache | None,
        attention: str = "plain",
        kept: DTypeLike = jnp.float32,
    ) -> tuple[Float32[Array, "B W D"], LayerCache | None]:
        """The residual to add to x, and the layer's cache with the window written in; without a cache, `kept` is the
        dtype that it would have. Inputs after those with slots are not written to the cache (see `with_own`)."""
        c, linear = self.config, self.products.linear
        D, N, K, H = c.width, c.heads, c.kv_heads, c.head_dim
        scale = D**-0.5
        wq = parameter(self, "q", (N, H, D), ("heads", "head_dim", "embed"), scale)
        wk = parameter(self, "k", (K, H, D), ("kv_heads", "head_dim", "embed"), scale)
        wv = parameter(self, "v", (K, H, D), ("kv_heads", "head_dim", "embed"), scale)
        wo = parameter(self, "o", (D, N, H), ("embed", "heads", "head_dim"), (N * H * 2 * c.layers) ** -0.5)
        q, k, v = linear(x, wq), linear(x, wk), linear(x, wv)
        normalise = QK_NORMS[c.qk_norm]
        q, k = normalise(c, "heads", "q_norm")(q), normalise(c, "kv_heads", "k_norm")(k)
        q, k = rotate(q, angles), rotate(k, angles)
        if layer is None:
            keys, values = (new.swapaxes(1, 2).astype(kept) for new in (k, v))  # as in a cache
            return linear(in_parts(q, keys, values, mask, self.products), wo, inner=2), None
        assert slots is not None, "a cache is written at slots"
        W = slots.shape[1]
        written = (cache.write(old, new[:, :W], slots, attention) for old, new in zip(layer, (k, v), strict=True))
        keys, values = (nn.with_logical_constraint(array, cache.AXES[attention]) for array in written)
        layer = keys, values
        if x.shape[1] > W:
            if attention == "plain":  # the cache is read once
                out = with_own(q, k, v, layer, mask, W, attention, self.products)
            else:
                seen = mask[:, :W, : keys.shape[1]]  # without columns for the others
                out = ATTENTIONS[attention](q[:, :W], keys, values, seen, self.products)
                others = q[:, W:], k[:, W:], v[:, W:]
                more = with_own(*others, layer, mask[:, W:], 0, attention, self.products)
                out = jnp.concatenate([out, more], axis=1)
            return linear(out, wo, inner=2), layer
        return linear(ATTENTIONS[attention](q, keys, values, mask, self.products), wo, inner=2), layer
