"""Grouped acceptance (GSD): the token rule at G = 1, a slow NumPy reference, and what a larger group may not do.

For images see test_loops.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.decode.acceptance import Group, group_members, grouped_chance, token_chance

V, SHAPE = 12, (64, 5)


def laws(seed, ties=True):
    """Two batches of laws; with ties many ids have probability 0 or share one value, as after top-k."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, *SHAPE, V)).round(0 if ties else 6)
    if ties:
        logits[0][rng.random((*SHAPE, V)) < 0.3] = -np.inf
        logits[0, ..., 0] = 0.0
    drafts = rng.integers(0, V, SHAPE)
    p, q = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    return p, q, jnp.asarray(drafts, jnp.int32)


def one_hot(drafts):
    return jnp.where(jax.nn.one_hot(drafts, V) > 0, 0.0, -jnp.inf)


def reference(p, q, x, group, vectors):
    """One position by the definition: sort, take the ranks around x, filter, compare the sums."""
    order = sorted(range(V), key=lambda c: (p[c], c))
    r = order.index(x)
    members = order[max(r - group.size // 2, 0) : r + (group.size + 1) // 2]
    if group.delta is not None:
        members = [c for c in members if abs(p[c] - p[x]) <= group.delta]
    if group.radius is not None:
        members = [c for c in members if ((vectors[c] - vectors[x]) ** 2).sum() <= group.radius]
    return members, min(1.0, sum(p[c] for c in members) / max(sum(q[c] for c in members), 1e-30))


@pytest.mark.parametrize(
    "group",
    [Group(1), Group(2, None), Group(5, None), Group(14, None), Group(40, None), Group(6, 0.05), Group(8, 0.1, 2.0)],
    ids=str,
)
def test_equals_the_reference(group):
    log_p, log_q, drafts = laws(0)
    vectors = np.random.default_rng(1).normal(size=(V, 3)).astype(np.float32)
    chance = grouped_chance(drafts, log_p, log_q, group, lambda codes: jnp.asarray(vectors)[codes])
    members, exist = group_members(jnp.exp(log_p), drafts, group.size)
    arrays = (jnp.exp(log_p), jnp.exp(log_q), chance, members, exist, drafts)
    p, q, chance, members, exist, drafts = map(np.asarray, arrays)
    for at in np.ndindex(SHAPE):
        x = int(drafts[at])
        _, expected = reference(p[at], q[at], x, group, vectors)
        np.testing.assert_allclose(chance[at], expected, rtol=1e-5, atol=1e-6)
        unfiltered, _ = reference(p[at], q[at], x, Group(group.size, None), vectors)
        assert sorted([x, *members[at][exist[at]].tolist()]) == sorted(unfiltered)


def test_a_group_of_one_is_the_token_rule():
    log_p, log_q, drafts = laws(2, ties=False)
    grouped = grouped_chance(drafts, log_p, log_q, Group(1), None)
    np.testing.assert_allclose(grouped, token_chance(drafts, log_p, log_q), rtol=1e-5)


def test_a_larger_group_never_lowers_acceptance_of_certain_drafts():
    log_p, _, drafts = laws(3)
    chances = [grouped_chance(drafts, log_p, one_hot(drafts), Group(G, None), None) for G in range(1, V + 3)]
    for smaller, larger in zip(chances, chances[1:], strict=False):
        assert (larger >= smaller - 1e-6).all()
    assert chances[-1].mean() > chances[0].mean() + 0.3
