"""Distances between two sets of feature vectors, and retrieval; float64 NumPy, every number with a 95 % interval."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ssd_jax.errors import UserError

NORMAL_95 = 1.96
GROUPS = 32
"""Parts that the grouped jackknife leaves out in turn."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval; NaN ends where too few samples give none."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, deviation: float) -> "Estimate":
        """A normal interval from a standard error."""
        half = NORMAL_95 * float(deviation)
        return cls(float(value), float(value) - half, float(value) + half)

    @classmethod
    def mean(cls, values: np.ndarray) -> "Estimate":
        """The mean of independent values [N]."""
        values = np.asarray(values, np.float64)
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return cls.around(values.mean(), error)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> Estimate:
    """KID: the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3 (arXiv 1801.01401).

    Unbiased, so two sets from one law give 0 on average and often less. The interval is a leave-one-out jackknife,
    which is a little too wide close to 0.

    Args:
        x, y: [M, d] and [N, d], independent samples, M and N at least 3.
    """
    x, y = _pair(x, y, least=3)
    M, N, d = len(x), len(y), x.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / d + 1.0) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    within_x, within_y, across = xx.sum(), yy.sum(), xy.sum()
    value = within_x / (M * (M - 1)) + within_y / (N * (N - 1)) - 2 * across / (M * N)
    without_x = (
        (within_x - 2 * xx.sum(1)) / ((M - 1) * (M - 2))
        + within_y / (N * (N - 1))
        - 2 * (across - xy.sum(1)) / ((M - 1) * N)
    )
    without_y = (
        within_x / (M * (M - 1))
        + (within_y - 2 * yy.sum(1)) / ((N - 1) * (N - 2))
        - 2 * (across - xy.sum(0)) / (M * (N - 1))
    )
    return Estimate.around(value, np.sqrt(_jackknife_variance(without_x) + _jackknife_variance(without_y)))


def principal_axes(features: np.ndarray, dims: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and the first principal axes [d, k] of features [N, d]; k is `dims`, or less where N or d is small.

    A set gives few of them: with N pictures k is at most N // 2, or covariances would be singular.
    """
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
    return mean, axes[: max(1, min(dims, len(features) // 2, features.shape[1]))].T


def frechet_distance(x: np.ndarray, y: np.ndarray, axes: tuple[np.ndarray, np.ndarray] | None = None) -> Estimate:
    """FD between Gaussians fitted to two sets: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)).

    Biased upwards by about dims^2 / N, so compare it with the floor that two sets from one law give at the same sizes.
    The interval is a grouped jackknife over both sets.

    Args:
        x, y: [M, d] and [N, d].
        axes: from `principal_axes`, the subspace to measure in; None measures in all d dimensions.
    """
    x, y = _pair(x, y, least=3)
    if axes is not None:
        mean, directions = axes
        x, y = (x - mean) @ directions, (y - mean) @ directions
    return Estimate.around(
        _frechet(x, y), np.sqrt(_grouped(lambda s: _frechet(s, y), x) + _grouped(lambda s: _frechet(x, s), y))
    )


def retrieval(
    queries: np.ndarray,
    wanted: Sequence[str],
    gallery: np.ndarray,
    identities: Sequence[str],
    at: Sequence[int] = (1, 5),
) -> dict[int, Estimate]:
    """R@k: how often one of the k gallery pictures nearest to a query (by cosine) has the identity it should have.

    Args:
        queries: features [Q, d]; wanted: the identity of each.
        gallery: features [N, d]; identities: the identity of each.
        at: the k's.
    Returns:
        k -> share, with Wilson's interval.
    """
    if not len(queries):
        raise UserError("Retrieval needs at least one query.")
    queries, gallery = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (queries, gallery))
    nearest = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, : max(at)]
    right = np.asarray(identities)[nearest] == np.asarray(wanted)[:, None]
    return {k: _wilson(int(right[:, :k].any(1).sum()), len(queries)) for k in at}


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # (A B)^(1/2) has the trace of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum()
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * cross)


def _jackknife_variance(without: np.ndarray) -> float:
    """Variance of a statistic from its values without each of G equal parts, [G]."""
    G = len(without)
    return (G - 1) / G * float(np.sum((without - without.mean()) ** 2))


def _grouped(statistic: Callable[[np.ndarray], float], sample: np.ndarray) -> float:
    parts = np.arange(len(sample)) % min(GROUPS, len(sample))
    return _jackknife_variance(np.array([statistic(sample[parts != part]) for part in range(parts.max() + 1)]))


def _wilson(hits: int, count: int) -> Estimate:
    share, z2 = hits / count, NORMAL_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_95 * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Estimate(share, float(middle - half), float(middle + half))


def _pair(x: np.ndarray, y: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"Two sets of features must be [M, d] and [N, d], not {x.shape} and {y.shape}.")
    if min(len(x), len(y)) < least:
        raise UserError(f"A distance needs at least {least} pictures in each set, not {len(x)} and {len(y)}.")
    return x, y
