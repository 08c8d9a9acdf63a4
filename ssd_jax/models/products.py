"""Matrix products of a model: in its own dtype, or in bfloat16 with float32 sums for training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Product = Callable[..., jax.Array]
"""`jnp.einsum` of two operands: (subscripts, a, b, preferred_element_type=None) -> array."""


def mixed(subscripts: str, a: jax.Array, b: jax.Array, preferred_element_type: Any = None) -> jax.Array:
    """An einsum whose operands are rounded to bfloat16 and whose sums are float32, in its gradients too.

    Unlike bfloat16 parameters it keeps all between two products in float32, and unlike
    `jax.default_matmul_precision` it is faster on CPUs that multiply bfloat16, too. Every index of an operand must
    occur in the other one or in the result.
    """
    return _mixed(subscripts, a, b).astype(preferred_element_type or jnp.result_type(a, b))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return _forward(subscripts, a, b)[0]


def _forward(subscripts: str, a: jax.Array, b: jax.Array):
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32), (a, b)


def _backward(subscripts: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array):
    a, b = operands
    inputs, out = subscripts.split("->")
    first, second = inputs.split(",")
    gradient = gradient.astype(jnp.bfloat16)
    to_a = jnp.einsum(f"{out},{second}->{first}", gradient, b, preferred_element_type=jnp.float32)
    to_b = jnp.einsum(f"{first},{out}->{second}", a, gradient, preferred_element_type=jnp.float32)
    return to_a, to_b


_mixed.defvjp(_forward, _backward)

PRODUCTS: dict[str, Product] = {"float32": jnp.einsum, "bfloat16": mixed}
"""What a training config's `matmul` may say."""
