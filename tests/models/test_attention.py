"""Both implementations of attention give the same numbers and draw the same images; the fused one lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.errors import UserError
from ssd_jax.models import attention
from ssd_jax.models.attention import fused, in_parts, plain
from ssd_jax.models.matmul import Products
from ssd_jax.sequence import cache

B, W, T, H = 2, 3, 10, 8


def inputs(heads: int, kv_heads: int, dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (B, W, heads, H))
    k, v = (jax.random.normal(key, (B, kv_heads, T, H)).astype(dtype) for key in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.6, (B, W, T)).at[:, :, 0].set(True).at[:, :, -1].set(False)
    return q, k, v, mask


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_fused_is_plain(heads, kv_heads, dtype, atol):
    q, k, v, mask = inputs(heads, kv_heads, dtype)
    ours = plain(q, k, v, mask, Products())
    theirs = fused(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, Products())
    assert ours.dtype == theirs.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=atol)


def test_a_masked_slot_is_not_seen():
    q, k, v, mask = inputs(4, 2, jnp.float32)
    hidden = jnp.where(mask.any(axis=1)[:, None, :, None], v, 1e6)
    assert (hidden != v).any()
    np.testing.assert_array_equal(plain(q, k, hidden, mask, Products()), plain(q, k, v, mask, Products()))


@pytest.mark.parametrize("decoder", ["ar", "ssd", "ssd-exact", "ssd-tree", "jacobi-wave"])
def test_pictures_do_not_depend_on_the_implementation(headed_folder, headed, decoder):
    other = ssd_jax.load(headed_folder, dtype=jnp.float32, attention="fused")
    one, two = (pipe.generate(["red apple", "dog"], decoder=decoder, pixels=False) for pipe in (headed, other))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert other.numerics()["attention"] == "fused"


def test_fused_draws_in_bfloat16(headed_folder):
    """With the program that users run."""
    pipe = ssd_jax.load(headed_folder, dtype=jnp.bfloat16, attention="fused")
    out = pipe.generate(["red apple", "dog"], decoder="ssd-exact", pixels=False)
    assert out.tokens.shape == (2, 4, 4) and (out.trace >= 1).all()


def test_fused_on_a_mesh_is_refused(headed_folder):
    with pytest.raises(UserError, match="runs on one device"):
        ssd_jax.load(headed_folder, mesh="model:1", attention="fused")


def test_a_fused_cache_has_time_in_front_of_heads():
    assert cache.CacheSpec(1, 2, 4, 100, 8, jnp.float32, "fused").shape == (2, 100, 4, 8)
    assert cache.CacheSpec(1, 2, 4, 100, 8, jnp.float32).shape == (2, 4, 100, 8)


def test_an_unknown_implementation(random_folder):
    with pytest.raises(UserError, match="Unknown attention 'flash'; choose one of plain, fused"):
        ssd_jax.load(random_folder, attention="flash")


def test_fused_lowers_for_cuda(monkeypatch):
    """To cuDNN's attention, with grouped queries and the cache as it lies."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)

    def attend(q, keys, values, mask, new, slots):
        keys, values = (cache.write(old, new, slots, "fused") for old in (keys, values))
        return fused(q, keys, values, mask, Products())

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    window = shape(2, 16, 8, 128, dtype=jnp.float32)
    layer, new = shape(2, 256, 2, 128), shape(2, 16, 2, 128, dtype=jnp.float32)
    arguments = window, layer, layer, shape(2, 16, 256, dtype=bool), new, shape(2, 16, dtype=jnp.int32)
    text = jax.jit(attend).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "cudnn" in text and "fmha" in text.lower()
    moved = [line for line in text.splitlines() if "stablehlo.transpose" in line and "256x" in line]
    assert not [line for line in moved if "xbf16>" in line]  # no transposed copy of the cache


def test_scores_in_parts_give_the_same_result_and_gradients(monkeypatch):
    """Sequences whose scores are too many for one array: here parts of two of three queries, the last one padded."""
    q, keys, values, mask = inputs(4, 2, jnp.float32)

    def run(limit):
        monkeypatch.setattr(attention, "LIMIT", limit)
        total = lambda *arrays: (in_parts(*arrays, mask, Products()) ** 2).sum()  # noqa: E731
        lowered = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2))).lower(q, keys, values)
        return "while" in lowered.as_text(), lowered.compile()(q, keys, values)

    (one_has, whole), (parts_have, parts) = run(2**28), run(2 * B * 4 * T)
    assert parts_have and not one_has  # a loop
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)
