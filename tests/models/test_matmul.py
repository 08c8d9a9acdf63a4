"""Products: weights are [out, in], the dtype of the operands decides what is rounded, sums are float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.models.matmul import FEWEST, PRODUCTS, Products, cpu_multiplies_bfloat16, fast_dtype

CASES = [
    ("bwd,df->bwf", (2, 3, 16), (16, 5)),
    ("mi,oi->mo", (8, 16), (5, 16)),
    ("bkgwh,bkth->bkgwt", (2, 1, 2, 3, 8), (2, 1, 4, 8)),
    ("bkrt,bkth->bkrh", (2, 1, 12, 4), (2, 1, 4, 8)),
]
EXACT, ROUNDED = PRODUCTS["float32"], PRODUCTS["bfloat16"]


def operands(first, second):
    a, b = jax.random.split(jax.random.key(0))
    return jax.random.normal(a, first), jax.random.normal(b, second)


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


@pytest.mark.parametrize(("subscripts", "first", "second"), CASES)
def test_only_the_operands_are_rounded(subscripts, first, second):
    a, b = operands(first, second)
    out = ROUNDED.einsum(subscripts, a, b)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, jnp.einsum(subscripts, rounded(a), rounded(b)), atol=1e-5)
    assert np.abs(out - jnp.einsum(subscripts, a, b)).max() > 1e-3  # the exact product is another one


@pytest.mark.parametrize(("subscripts", "first", "second"), CASES)
def test_a_bfloat16_operand_makes_a_rounded_product(subscripts, first, second):
    a, b = operands(first, second)
    for left, right in ((a, b.astype(jnp.bfloat16)), (a.astype(jnp.bfloat16), b)):
        np.testing.assert_array_equal(EXACT.einsum(subscripts, left, right), ROUNDED.einsum(subscripts, a, b))
    np.testing.assert_array_equal(EXACT.einsum(subscripts, a, b), jnp.einsum(subscripts, a, b))


@pytest.mark.parametrize(("subscripts", "first", "second"), CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_products_of_rounded_operands(subscripts, first, second, dtype):
    a, b = operands(first, second)
    out, back = jax.vjp(lambda a, b: ROUNDED.einsum(subscripts, a, b), a, b.astype(dtype))
    gradient = jax.random.normal(jax.random.key(1), out.shape)
    _, exact = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), rounded(a), rounded(b))
    expected = exact(rounded(gradient))
    for actual, wanted, kind in zip(back(gradient), expected, (jnp.float32, dtype), strict=True):
        assert actual.dtype == kind
        np.testing.assert_allclose(actual, wanted, atol=1e-5 if kind == jnp.float32 else 0.05)


@pytest.mark.parametrize("count", [1, 2, FEWEST - 1, FEWEST, 9])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linear_contracts_the_last_axes_of_a_weight(count, dtype):
    """Whatever the number of rows: few of them are padded or taken one by one."""
    x, weight = operands((1, count, 4, 6), (5, 3, 4, 6))
    out = Products().linear(x, weight.astype(dtype), inner=2)
    assert out.shape == (1, count, 5, 3) and out.dtype == jnp.float32
    left, right = (rounded(x), rounded(weight)) if dtype == jnp.bfloat16 else (x, weight)
    np.testing.assert_allclose(out, jnp.einsum("bwnh,efnh->bwef", left, right), atol=1e-5)


def test_the_fast_dtype_is_what_the_processor_multiplies():
    assert fast_dtype() == (jnp.bfloat16 if cpu_multiplies_bfloat16() else jnp.float32)
