"""KID and FD between images of prompts: unbiased, and with intervals that hold the true value, whether the two sets
share their prompts or not. A painter here is a random generator with a component per prompt and one of its own."""

import itertools
from functools import cache
from math import factorial

import numpy as np
import pytest
from scipy import linalg

from ssd_jax.errors import UserError
from ssd_jax.eval import distances
from ssd_jax.eval.distances import frechet_distance, kernel_distance, principal_axes

DIMS, TRIALS = 4, 400
MIX = np.random.default_rng(7).normal(size=(DIMS, DIMS)) * [0.6, 0.3, 0.2, 0.1]


def paint(rng: np.random.Generator, asked: np.ndarray, shift: float) -> np.ndarray:
    """Features of an image of every prompt: between 0 and 6, as those of the network."""
    return np.clip(asked @ MIX + 0.5 * rng.normal(size=asked.shape) + 0.5 + shift, 0, 6)


def sets(seed: int, count: int, shared: bool, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Images of `count` prompts by two painters, of the same prompts or of others."""
    rng = np.random.default_rng(seed)
    asked = rng.normal(size=(count, DIMS))
    return paint(rng, asked, 0), paint(rng, asked if shared else rng.normal(size=asked.shape), shift)


def monomials(x: np.ndarray) -> np.ndarray:
    """phi with phi(a) . phi(b) = (a.b / d + 1)^3."""
    x = np.concatenate([x / np.sqrt(DIMS), np.ones((len(x), 1))], axis=1)
    chosen = list(itertools.combinations_with_replacement(range(DIMS + 1), 3))
    weights = [np.sqrt(factorial(3) / np.prod([factorial(c.count(i)) for i in set(c)])) for c in chosen]
    return np.stack([w * x[:, i] * x[:, j] * x[:, k] for w, (i, j, k) in zip(weights, chosen, strict=True)], axis=1)


def fit(x: np.ndarray, y: np.ndarray) -> float:
    """FD without any correction."""
    chosen = np.repeat([1.0, 0.0], len(x))[None]
    return float(distances._frechet(np.concatenate([x, y]), chosen)[0])


@cache
def truth(shift: float) -> dict:
    """Both distances between the painters, from 200,000 images of each."""
    if not shift:
        return {kernel_distance: 0.0, frechet_distance: 0.0}
    rng = np.random.default_rng(1)
    x, y = (paint(rng, rng.normal(size=(200_000, DIMS)), by) for by in (0, shift))
    gap = monomials(x).mean(0) - monomials(y).mean(0)
    return {kernel_distance: gap @ gap, frechet_distance: fit(x, y)}


@cache
def found(distance, shared: bool, shift: float, count: int = 48) -> list:
    return [distance(*sets(seed, count, shared, shift)) for seed in range(TRIALS)]


def many_axes(seed: int, count: int, shared: bool) -> distances.Estimate:
    """FD as the bench measures it, in 16 axes of 40 features that images of other prompts give; one distribution."""
    rng = np.random.default_rng([seed, count])
    mix = np.random.default_rng(3).normal(size=(40, 40)) * np.linspace(0.4, 0.1, 40)
    asked = rng.normal(size=(3, count, 40)) @ mix
    asked[1] = asked[0] if shared else asked[1]
    x, y, others = np.clip(asked + 0.3 * rng.normal(size=asked.shape) + 0.5, 0, 6)
    return frechet_distance(x, y, axes=principal_axes(others))


def sound(estimates: list, true: float) -> bool:
    """Whether they are right on average, and their intervals as often as they say, or nearly."""
    values = np.array([one.value for one in estimates])
    off = (values.mean() - true) / (values.std() / np.sqrt(TRIALS))
    coverage = np.mean([one.low <= true <= one.high for one in estimates])
    print(f"off by {off:.1f} standard errors, {coverage:.1%} of intervals hold {true}")
    return bool(abs(off) < 4 and 0.90 <= coverage <= 0.99)


@pytest.mark.parametrize(
    ("distance", "shift"),
    [
        (kernel_distance, 0.0),
        (kernel_distance, 0.05),
        (kernel_distance, 0.4),
        (frechet_distance, 0.4),
    ],
)
@pytest.mark.parametrize("shared", [True, False], ids=["shared prompts", "disjoint prompts"])
def test_unbiased_and_the_interval_holds_the_true_value(distance, shared, shift):
    assert sound(found(distance, shared, shift), truth(shift)[distance])


@pytest.mark.parametrize("shared", [True, False], ids=["shared prompts", "disjoint prompts"])
def test_frechet_distance_in_as_many_axes_as_the_bench_takes(shared):
    assert sound([many_axes(seed, distances.ENOUGH, shared) for seed in range(TRIALS)], 0.0)


def independent(x: np.ndarray, y: np.ndarray):
    """KID as for independent sets: images of one prompt are compared across, too."""
    d = x.shape[1]
    inner = [(a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)) for k in inner[:2])
    return within - 2 * inner[2].mean()


def test_comparing_pictures_of_one_prompt_would_be_seen():
    """A negative control, with the intervals of the real one."""
    estimates = found(kernel_distance, True, 0.0)
    gaps = [independent(*sets(seed, 48, True, 0.0)) - one.value for seed, one in enumerate(estimates)]
    moved = [
        distances.Estimate(*(end + gap for end in (one.value, one.low, one.high)))
        for one, gap in zip(estimates, gaps, strict=True)
    ]
    assert not sound(moved, 0.0)


def test_the_fit_alone_would_be_seen():
    """A negative control: FD without the jackknife's correction."""
    estimates = found(frechet_distance, True, 0.0)
    fits = [fit(*sets(seed, 48, True, 0.0)) for seed in range(TRIALS)]
    inside = [abs(fit) <= one.high - one.value for fit, one in zip(fits, estimates, strict=True)]
    assert np.mean(inside) < 0.90


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_values_do_not_depend_on_the_number_of_pictures(distance):
    few, many = (np.array([one.value for one in found(distance, True, 0.4, count)]) for count in (24, 96))
    error = np.sqrt((few.var() + many.var()) / TRIALS)
    assert abs(few.mean() - many.mean()) < 4 * error < 0.1 * many.mean()


def test_kernel_distance_equals_its_definition():
    """Over pairs of different prompts, of which two have two images here."""
    x, y = sets(0, 10, True, 0.4)
    prompts = np.array([0, 1, 0, 2, 1, 3, 4, 5, 6, 7])

    def h(i, j):
        def kernel(a, b):
            return (a @ b / DIMS + 1.0) ** 3

        return kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])

    pairs = [
        np.mean([h(i, j) for i in np.flatnonzero(prompts == a) for j in np.flatnonzero(prompts == b)])
        for a, b in itertools.permutations(range(8), 2)
    ]
    assert kernel_distance(x, y, prompts).value == pytest.approx(np.mean(pairs))


def test_intervals_are_over_prompts():
    """Each image twice tells no more than once."""
    x, y = sets(0, 40, True, 0.4)
    once = kernel_distance(x, y)
    twice = kernel_distance(*(np.repeat(v, 2, axis=0) for v in (x, y)), np.repeat(np.arange(40), 2))
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
    once, twice = (
        frechet_distance(*(np.repeat(v, times, axis=0) for v in (x, y)), np.repeat(np.arange(40), times))
        for times in (1, 2)
    )
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_equal_sets_are_no_distance_apart(distance):
    x, _ = sets(0, 50, True, 0.0)
    one = distance(x, x)
    assert (one.value, one.low, one.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_frechet_distance_of_known_gaussians():
    # |shift|^2 + dims (1 - 2)^2
    x, y = (
        np.random.default_rng(seed).normal(shift, scale, (40_000, 3)) for seed, shift, scale in ((0, 0, 1), (1, 0.5, 2))
    )
    # By hand: the fit is the formula, with the matrix root of a product.
    a, b = np.cov(x[:50].T), np.cov(y[:50].T)
    by_hand = np.sum((x[:50].mean(0) - y[:50].mean(0)) ** 2) + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert fit(x[:50], y[:50]) == pytest.approx(by_hand)
    one = frechet_distance(x, y)
    assert one.value == pytest.approx(3 * 0.25 + 3, rel=0.03)
    assert one.low < 3.75 < one.high


def test_principal_axes_find_the_directions_that_vary():
    x = np.random.default_rng(0).normal(size=(200, 6)) * np.array([5.0, 3.0, 1e-3, 1e-3, 1e-3, 1e-3])
    mean, axes = principal_axes(x, dims=2)
    np.testing.assert_allclose(mean, x.mean(0))
    assert axes.shape == (6, 2)
    assert np.abs(axes[:2]).max(0) == pytest.approx([1.0, 1.0], abs=0.05)
    assert principal_axes(x[:4], dims=64)[1].shape == (6, 4)  # there are no more
    far = frechet_distance(x, x + np.array([0, 0, 9.0, 0, 0, 0]), axes=(mean, axes))
    assert far.value == pytest.approx(0.0, abs=1e-5)  # outside the subspace


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
@pytest.mark.parametrize(
    ("shapes", "prompts"),
    [(((9, 3), (9, 4)), None), (((9, 3), (8, 3)), None), (((7, 3), (7, 3)), None), (((9, 3), (9, 3)), [0, 1, 2] * 3)],
)
def test_bad_sets_are_refused(distance, shapes, prompts):
    with pytest.raises(UserError):
        distance(*map(np.zeros, shapes), prompts)
