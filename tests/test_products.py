"""Products in bfloat16: what is rounded, what is not, and that their gradients are products of the same kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.models.products import PRODUCTS, mixed

CASES = [("bwd,df->bwf", (2, 3, 16), (16, 5)), ("bkgwh,bkth->bkgwt", (2, 1, 2, 3, 8), (2, 1, 4, 8))]


def operands(first, second):
    a, b = jax.random.split(jax.random.key(0))
    return jax.random.normal(a, first), jax.random.normal(b, second)


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


@pytest.mark.parametrize(("subscripts", "first", "second"), CASES)
def test_only_the_operands_are_rounded(subscripts, first, second):
    a, b = operands(first, second)
    out = mixed(subscripts, a, b)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, jnp.einsum(subscripts, rounded(a), rounded(b)), atol=1e-5)
    assert np.abs(out - jnp.einsum(subscripts, a, b)).max() > 1e-3  # the exact product is another one


@pytest.mark.parametrize(("subscripts", "first", "second"), CASES)
def test_gradients_are_products_of_rounded_operands(subscripts, first, second):
    a, b = operands(first, second)
    out, back = jax.vjp(lambda a, b: mixed(subscripts, a, b), a, b)
    gradient = jax.random.normal(jax.random.key(1), out.shape)
    _, exact = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), rounded(a), rounded(b))
    for actual, expected in zip(back(gradient), exact(rounded(gradient)), strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_wanted_dtype_is_given():
    a, b = operands((2, 4), (4, 3))
    for product in PRODUCTS.values():
        half = product("ij,jk->ik", a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
        assert half.dtype == jnp.bfloat16
        full = product("ij,jk->ik", half, b[:3, :3], preferred_element_type=jnp.float32)
        assert full.dtype == jnp.float32
