"""From logits to tokens: filters against a sort in NumPy, guidance, the order of the chain, the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.sampling.choice import choose, most_likely
from ssd_jax.sampling.distribution import Sampler, guide, log_probabilities
from ssd_jax.sampling.noise import gumbel_noise, image_keys

V = 50
filtered = jax.jit(log_probabilities)


def sampler(temperature=1.0, top_k=V, top_p=1.0, cfg_scale=1.0) -> Sampler:
    return Sampler(jnp.float32(cfg_scale), jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


def p_of(probabilities, **knobs) -> np.ndarray:
    """What the filters make of a distribution."""
    logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
    return np.exp(np.asarray(filtered(logits, sampler(**{"top_k": len(probabilities), **knobs}))))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def top_k_reference(logits: np.ndarray, k: int) -> np.ndarray:
    """Which codes stay, by a sort; codes as likely as the k-th stay too."""
    return logits >= np.sort(logits)[::-1][min(k, len(logits)) - 1]


def top_p_reference(logits: np.ndarray, mass: float) -> tuple[np.ndarray, float]:
    """Which codes stay, by a sort, ties together; and how far the decision was from falling otherwise."""
    p = softmax(logits.astype(np.float64))
    levels = np.unique(p)[::-1]
    sums = np.array([p[p >= level].sum() for level in levels])
    return p >= levels[np.argmax(sums >= mass)], np.abs(sums - mass).min()


def rows(tied: bool, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(20, V)) * 2
    return (np.round(logits) if tied else logits).astype(np.float32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [1, 2, 7, V - 1, V, V + 1, 10_000])
def test_top_k_keeps_what_a_sort_keeps(tied, k):
    log_p = np.asarray(filtered(rows(tied), sampler(top_k=k)))
    for logits, actual in zip(rows(tied), log_p, strict=True):
        keep = top_k_reference(logits, k)
        np.testing.assert_array_equal(np.isfinite(actual), keep)
        np.testing.assert_allclose(np.exp(actual), softmax(np.where(keep, logits, -np.inf)), atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 30, V - 1])
def test_top_k_of_impossible_codes_and_of_any_scale(k):
    """Codes at -inf, zeros of both signs, which are one value, and rows whose values lie very close or very far."""
    scales = np.float32([1e-30, 1e-3, 1.0, 1e6, 1e37])
    logits = np.concatenate([rows(tied, seed) * scales[:, None, None] for tied in (False, True) for seed in (3, 4)])
    logits[np.random.default_rng(5).random(logits.shape) < 0.4] = -np.inf
    for row, actual in zip(logits.reshape(-1, V), filtered(logits, sampler(top_k=k)).reshape(-1, V), strict=True):
        np.testing.assert_array_equal(np.isfinite(actual), top_k_reference(row, k) & np.isfinite(row))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mass", [0.01, 0.3, 0.8, 0.99])
def test_top_p_keeps_what_a_sort_keeps(tied, mass):
    log_p = np.asarray(filtered(rows(tied), sampler(top_p=mass)))
    compared = 0
    for logits, actual in zip(rows(tied), log_p, strict=True):
        keep, margin = top_p_reference(logits, mass)
        if margin > 1e-5:  # nearer than that, float32 may round the sum to either side
            compared += 1
            np.testing.assert_array_equal(np.isfinite(actual), keep)
            np.testing.assert_allclose(np.exp(actual), softmax(np.where(keep, logits, -np.inf)), atol=1e-6)
    assert compared >= 18


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass():
    p = [0.1, 0.4, 0.2, 0.3]
    np.testing.assert_array_equal(p_of(p, top_p=0.39) > 0, [False, True, False, False])
    np.testing.assert_array_equal(p_of(p, top_p=0.41) > 0, [False, True, False, True])
    np.testing.assert_array_equal(p_of(p, top_p=0.71) > 0, [False, True, True, True])
    np.testing.assert_array_equal(p_of(p, top_p=1.0) > 0, [True] * 4)
    np.testing.assert_array_equal(p_of([0.25, 0.5, 0.25], top_p=0.5) > 0, [False, True, False])  # exactly the mass


def test_top_p_keeps_ties_together():
    np.testing.assert_array_equal(p_of([0.4, 0.2, 0.2, 0.2], top_p=0.5) > 0, [True] * 4)


def test_no_filter_is_the_softmax():
    logits = rows(tied=False)
    np.testing.assert_allclose(filtered(logits, sampler()), jax.nn.log_softmax(logits), atol=1e-6)


def test_temperature_divides_the_logits():
    logits = rows(tied=False)
    np.testing.assert_allclose(filtered(logits, sampler(0.7)), jax.nn.log_softmax(logits / 0.7), atol=1e-5)


@pytest.mark.parametrize("knobs", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5}])
def test_temperature_0_takes_the_most_likely_code_whatever_the_filters(knobs):
    logits = rows(tied=True)  # of several, the lowest id
    log_p = filtered(logits, sampler(0.0, **knobs))
    expected = np.where(np.arange(V) == logits.argmax(-1)[:, None], 0.0, -np.inf)
    np.testing.assert_array_equal(log_p, expected)
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    np.testing.assert_array_equal(choose(log_p, noise), logits.argmax(-1))


def test_top_k_comes_before_top_p():
    # Of the two that top-k leaves, the first has 4/7 of the mass; of all four, it has 0.4.
    np.testing.assert_array_equal(p_of([0.4, 0.3, 0.2, 0.1], top_k=2, top_p=0.5) > 0, [True, False, False, False])


def test_temperature_comes_before_top_p():
    np.testing.assert_array_equal(p_of([0.7, 0.3], top_p=0.6) > 0, [True, False])
    np.testing.assert_array_equal(p_of([0.7, 0.3], top_p=0.6, temperature=10.0) > 0, [True, True])


def test_filters_take_low_precision_logits_in_float32():
    assert filtered(rows(tied=False).astype(jnp.bfloat16), sampler(0.9, 5, 0.9)).dtype == jnp.float32


def test_guidance_leads_away_from_the_unconditional_rows():
    conditional, unconditional = rows(tied=False, seed=1), rows(tied=False, seed=2)
    both = jnp.concatenate([conditional, unconditional])[:, None]
    actual = guide(both, jnp.float32(2.5), True)[:, 0]
    np.testing.assert_allclose(actual, unconditional + 2.5 * (conditional - unconditional), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(guide(both, jnp.float32(0.0), True)[:, 0], unconditional, atol=1e-6)


def test_without_guidance_there_are_no_unconditional_rows():
    logits = jnp.asarray(rows(tied=False))[:, None]
    np.testing.assert_array_equal(guide(logits, jnp.float32(2.5), False), logits)


# -- noise


def test_gumbel_max_draws_from_p():
    p, draws = np.array([0.45, 0.25, 0.15, 0.1, 0.05, 0.0]), 40_000
    keys = image_keys(jnp.array([3], jnp.uint32), jnp.array([0]))
    noise = gumbel_noise(keys, jnp.arange(draws)[None], len(p))
    counts = np.bincount(np.asarray(choose(jnp.log(p)[None, None], noise))[0], minlength=len(p))
    expected = draws * p
    chi_square = (((counts - expected) ** 2)[:5] / expected[:5]).sum()
    assert counts[5] == 0
    assert chi_square < 18.5  # 4 degrees of freedom: one seed in a thousand gives more


def test_the_lowest_id_wins_a_tie():
    values = jnp.array([[1.0, 3.0, 3.0, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf, -jnp.inf], [0.0, -jnp.inf, 5.0, 5.0]])
    assert most_likely(values).tolist() == [1, 0, 2]
    ids = most_likely(jnp.asarray(rows(tied=True)))
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, rows(tied=True).argmax(-1))


def test_noise_depends_on_seed_number_and_position_and_on_nothing_else():
    seeds, numbers = jnp.array([7, 7, 8], jnp.uint32), jnp.array([0, 1, 0])
    positions = jnp.array([[0, 1, 2], [2, 1, 0], [5, 5, 1]])
    together = np.asarray(gumbel_noise(image_keys(seeds, numbers), positions, V))
    for row in range(3):
        key = image_keys(seeds[row : row + 1], numbers[row : row + 1])
        for place in range(3):  # alone in its batch and its window
            alone = gumbel_noise(key, positions[row : row + 1, place : place + 1], V)[0, 0]
            np.testing.assert_array_equal(alone, together[row, place])
    different = [together[0, 0], together[0, 1], together[1, 2], together[1, 1], together[2, 2], together[2, 0]]
    assert len({array.tobytes() for array in different}) == len(different)
    np.testing.assert_array_equal(together[2, 0], together[2, 1])  # the same position twice: the same noise
