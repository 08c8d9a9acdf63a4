"""Drafts that are verified twice: every committed token follows its distribution, whatever was decided before it.

The distributions are constants, so that tokens, not images, are counted: three positions with drafts from Q meet P;
where the first draft is rejected, the window moves on by one, and the second position is verified again, with
another P, as happens when a token before it is corrected. Shares are counted separately for every history, which finds
dependent draws. A correct rule must reach p > 1e-3, a wrong one must fall below 1e-9.

Two tags may share a key where no position draws with both in one pass: RESIDUAL and RESAMPLE do no harm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
from scipy import stats

from ssd_jax.decode import acceptance
from ssd_jax.decode.verifier import Verifier
from ssd_jax.sampling import noise
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.noise import Tag

IMAGES = 100_000
Q, P, LATER = (jnp.array(law) for law in ([0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.15, 0.2, 0.65]))
REDRAFT = jnp.array([0.5, 0.2, 0.3])
V = 3

RULES = ("resample", "maximal", "gumbel", "mtp", "rows")
"""Couplings of the raster loop; multi-token prediction, which drafts the second position anew, with the noise that has
drafted it before; and the row loop's, in which every position is settled by itself."""


class Settled(NamedTuple):
    """Tokens, int32 [IMAGES, W], of the first pass and of the second, and how many drafts stood in the first."""

    first: jax.Array
    second: jax.Array
    stood: jax.Array


def settle_twice(rule: str) -> Settled:
    def law(p: jax.Array, width: int) -> jax.Array:
        return jnp.broadcast_to(jnp.log(p), (IMAGES, width, V))

    def draw(numbers: jax.Array) -> Settled:
        keys = noise.image_keys(jnp.zeros_like(numbers), numbers)
        verifier = stub.changed(
            Verifier(),
            noise=lambda at: noise.gumbel_noise(keys, at, V),
            keys=lambda at: noise.position_keys(keys, at),
        )
        at, clock = jnp.broadcast_to(jnp.arange(7, 10, dtype=jnp.int32), (IMAGES, 3)), jnp.full_like(numbers, 4)
        drafts = choose(law(Q, 3), verifier.noise(at))
        if rule == "rows":
            first = acceptance.auto_correct(verifier, drafts, law(P, 3), law(Q, 3), at, clock)
            second = acceptance.auto_correct(verifier, first, law(LATER, 3), law(P, 3), at, clock + 1)
            return Settled(first, second, jnp.zeros_like(numbers))
        coupling, chance = "resample" if rule == "mtp" else rule, acceptance.token_chance
        first, stood = acceptance.accept_window(
            verifier, coupling, chance, drafts[:, :2], law(P, 3), law(Q, 2), at, clock
        )
        at, q = at[:, 1:], REDRAFT if rule == "mtp" else P
        drafts = choose(law(q, 1), verifier.noise(at[:, :1])) if rule == "mtp" else first[:, 1:2]
        second, _ = acceptance.accept_window(
            verifier, coupling, chance, drafts, law(LATER, 2), law(q, 1), at, clock + 1
        )
        return Settled(first, second, stood)

    return jax.tree.map(np.asarray, jax.jit(draw)(jnp.arange(IMAGES, dtype=jnp.int32)))


def p_values(rule: str) -> dict[str, float]:
    """p-value of the law of each token, given the tokens before it."""
    first, second, stood = settle_twice(rule)
    if rule == "rows":
        (a, b, _), (later, other, _) = first.T, second.T
        return {
            "first": p_value(P, a),
            "beside": p_value(P, b, a),
            "again": p_value(LATER, later),
            "beside again": p_value(LATER, other, later),
        }
    a, b, c = first.T
    kept, all_kept, refused = stood >= 1, stood == 2, stood == 0
    return {
        "first": p_value(P, a),
        "second": p_value(P, b[kept], a[kept]),
        "free": p_value(P, c[all_kept], a[all_kept], b[all_kept]),
        "second, one pass later": p_value(LATER, second[refused, 0], a[refused]),
    }


def p_value(law: jax.Array, tokens: np.ndarray, *before: np.ndarray) -> float:
    """Chi-square of one law in every group of equal tokens before."""
    group = sum((V**power * one for power, one in enumerate(before)), start=np.zeros_like(tokens))
    counts = np.bincount(group * V + tokens, minlength=V ** (len(before) + 1)).reshape(-1, V)
    counts = counts[counts.sum(axis=1) > 0]
    expected = counts.sum(axis=1, keepdims=True) * np.asarray(law, np.float64) / float(law.sum())
    assert expected.min() > 5
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), 2 * len(counts)))


@pytest.mark.parametrize("rule", RULES)
def test_every_token_follows_its_law(rule):
    found = p_values(rule)
    print(rule, found)
    assert min(found.values()) > 1e-3


def one_key(keys, tag, clock):
    """Acceptance and residual draw share a key: who is refused has a large u, and so the first code a large g."""
    return noise.fresh_keys(keys, Tag.ACCEPT if tag == Tag.RESIDUAL else tag, clock)


def no_clock(keys, tag, clock):
    """The same draws in every pass. Harmless where a position's u and residual are looked at once, in the pass that
    commits it; a resample is then a coupling, which costs no law but passes (see test_loops.py)."""
    return noise.fresh_keys(keys, tag, jnp.zeros_like(clock))


def no_clock_for_the_residual(keys, tag, clock):
    return noise.fresh_keys(keys, tag, jnp.zeros_like(clock) if tag == Tag.RESIDUAL else clock)


def no_position(keys, tag, clock):
    """The same draws at every position of a window."""
    return noise.fresh_keys(jnp.broadcast_to(keys[:, :1], keys.shape), tag, clock)


def keyed_noise(keys, tag, clock):
    """The residual is drawn with g_i, which has already chosen the draft that was refused."""
    return keys if tag == Tag.RESIDUAL else noise.fresh_keys(keys, tag, clock)


TWICE = ("maximal", "rows")
"""Rules that look at a position's draws in more than one pass; the others take the same way through `settle`."""

WRONG = [(one_key, "resample"), *((keys, rule) for keys in (one_key, no_position, keyed_noise) for rule in TWICE)]
WRONG += [(keys, rule) for keys in (no_clock, no_clock_for_the_residual) for rule in TWICE]


@pytest.mark.parametrize(("keys", "rule"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_draws_that_hang_together_are_seen(keys, rule, monkeypatch):
    monkeypatch.setattr(acceptance, "fresh_keys", keys)
    found = p_values(rule)
    print(rule, found)
    assert min(found.values()) < 1e-9
