"""The ends of the acceptance rule: a chance of 0 never accepts a draft, a chance of 1 always does."""

import jax.numpy as jnp
import numpy as np
import pytest
import stub

from ssd_jax.decode import acceptance
from ssd_jax.decode.verifier import Verifier
from ssd_jax.sampling.noise import image_keys, position_keys

POSITIONS, CLOCK = jnp.array([[3, 4, 5]]), jnp.array([2])
KEYS = image_keys(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
VERIFIER = stub.changed(Verifier(), keys=lambda positions: position_keys(KEYS, positions))


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-23])  # the least and the largest that are drawn
def test_an_impossible_draft_is_never_kept(number, monkeypatch):
    monkeypatch.setattr(acceptance, "uniform", lambda keys: jnp.full(keys.shape, number))
    chance = jnp.array([[0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(acceptance.accept(VERIFIER, chance, POSITIONS, CLOCK), [[False, True, False]])


def test_the_chance_is_the_ratio_and_at_most_one():
    p, q = jnp.array([0.0, 0.1, 0.5, 0.4]), jnp.array([0.25, 0.4, 0.25, 0.1])
    drafts = jnp.array([[0, 1, 2, 3]])
    log_p, log_q = (jnp.broadcast_to(jnp.log(law), (1, 4, 4)) for law in (p, q))
    np.testing.assert_allclose(acceptance.token_chance(drafts, log_p, log_q), [[0.0, 0.25, 1.0, 1.0]], rtol=1e-6)
