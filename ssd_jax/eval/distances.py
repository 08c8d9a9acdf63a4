"""Distances between two sets of pictures of the same prompts, as feature vectors; float64 NumPy.

Two pictures of one prompt are more alike than two of different prompts, whoever drew them. So prompts, not pictures,
are what was sampled, and intervals are over prompts. Both distances may be negative: where two sets follow one law they
are 0 on average, KID exactly, FD but for terms of the second order in 1 / prompts.
"""

import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.eval.estimates import NORMAL_95, Estimate

LEAST = 8
"""Prompts that a distance needs: with fewer, its interval would hold the true value too seldom."""

DIMS = 16
"""Axes in which the Fréchet distance is measured, however many pictures there are: it grows with the axes."""

ENOUGH = 8 * DIMS
"""Pictures from which on the bias that is left in FD, in so many axes, is small beside its interval."""

PARTS, SWAPS = 32, 32
"""For the Fréchet distance: in so many parts, at most, prompts are left out, and so often sets exchange pictures."""


def kernel_distance(x: np.ndarray, y: np.ndarray, prompts: np.ndarray | None = None) -> Estimate:
    """KID: the squared maximum mean discrepancy under the kernel k(a, b) = (a.b / d + 1)^3 (arXiv 1801.01401).

    The mean of h = k(x, x') + k(y, y') - k(x, y') - k(x', y) over pairs of different prompts, a U-statistic (Gretton et
    al. 2012, JMLR 13, lemma 6), for which the x and y of one prompt may depend on each other. Unbiased. The interval
    has all values that the mean found is not too far from, by the variance that it would have if they were true.

    Args:
        x, y: [N, d]; picture i of either was drawn for the same prompt, or no prompt of one is a prompt of the other.
        prompts: [N], the prompt of each; None: all are different.
    """
    x, y, prompts = _pair(x, y, prompts)
    inner = [(a @ b.T / x.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    members = np.eye(prompts.max() + 1)[:, prompts]
    share = members / members.sum(axis=1, keepdims=True)  # times values of pictures, the mean of every prompt's
    return _score_interval(share @ (inner[0] + inner[1] - inner[2] - inner[2].T) @ share.T)


def _score_interval(h: np.ndarray) -> Estimate:
    """The mean m of a symmetric h [P, P] over pairs of different prompts, whose true value t is the squared length of a
    vector, the mean of one number vector per prompt.

    Var m = 2 / P(P-1) (b + 2 (P-1) a), where a = E h12 h13 - t^2 and b = E h12^2 - t^2 - 2 a (Hoeffding 1948). Close to
    t = 0 the distance and the error of an interval around m go together: a is t times the variance along the vector. So
    the interval is made as Wilson's is for shares, of all t with (m - t)^2 <= 1.96^2 Var m(t). That variance along the
    vector is a / t; where m cannot be told from 0, the largest along any direction.
    """
    P = len(h)
    across = h - h.mean(axis=0) - h.mean(axis=1, keepdims=True) + h.mean()
    largest = np.linalg.eigvalsh(across)[-1] / P
    h = h - np.diag(np.diag(h))
    pairs, total, rows, squares = P * (P - 1), h.sum(), h.sum(axis=1), np.sum(h**2)
    m, shared = total / pairs, (rows @ rows - squares) / (pairs * (P - 2))
    apart = (total**2 - 4 * rows @ rows + 2 * squares) / (pairs * (P - 2) * (P - 3))  # t^2, from four prompts each
    a = max(shared - apart, 0.0)
    fixed = NORMAL_95**2 * 2 / pairs * max(squares / pairs - apart - 2 * a, 0.0)
    half = np.sqrt(fixed)
    along = min(a / m, largest) if m > half else largest
    slope = NORMAL_95**2 * 4 / P * along / 2
    root = np.sqrt(max(fixed + 2 * slope * m + slope**2, 0.0))
    low = m - half if m <= half else m + slope - root
    high = m + half if m < -half else m + slope + root
    return Estimate(float(m), float(low), float(high))


def principal_axes(features: np.ndarray, dims: int = DIMS) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and the first principal axes [d, dims] of features [N, d]; fewer only where there are no more.

    Of a set of its own: along the axes of a set that is compared, that set would vary most, and so seem different.
    """
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
    return mean, axes[:dims].T


def frechet_distance(
    x: np.ndarray,
    y: np.ndarray,
    prompts: np.ndarray | None = None,
    axes: tuple[np.ndarray, np.ndarray] | None = None,
) -> Estimate:
    """FD between Gaussians fitted to two sets: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)) (arXiv 1706.08500, eq. 6).

    The fit alone is biased upwards by about dims^2 / N; the jackknife over prompts takes that off. Where both sets
    follow one law, the jackknife's variance is twice the true one. The true one is found by exchanging the sets'
    pictures of prompts at random; what the jackknife has beyond twice of it comes from the distance itself.

    Args:
        x, y, prompts: as for `kernel_distance`.
        axes: from `principal_axes`, the subspace to measure in; None measures in all d dimensions.
    """
    x, y, prompts = _pair(x, y, prompts)
    if axes is not None:
        mean, directions = axes
        x, y = (x - mean) @ directions, (y - mean) @ directions
    N, count = len(x), prompts.max() + 1
    parts = min(PARTS, count)
    keep = prompts % parts != np.arange(parts)[:, None]
    swap = np.random.default_rng(0).random((SWAPS, count))[:, prompts] < 0.5
    first = np.concatenate([np.ones((1, N)), keep, ~swap])
    second = np.concatenate([np.zeros((1 + parts, N)), swap])
    fits = _frechet(np.concatenate([x, y]), np.concatenate([first, second], axis=1))
    whole, without, swapped = fits[0], fits[1 : 1 + parts], fits[1 + parts :]
    jackknife = (parts - 1) / parts * np.sum((without - without.mean()) ** 2)
    same = swapped.var(ddof=1)
    deviation = np.sqrt(same + max(jackknife - 2 * same, 0.0))
    return Estimate.around(parts * whole - (parts - 1) * without.mean(), deviation)


def _frechet(z: np.ndarray, first: np.ndarray) -> np.ndarray:
    """FD of several pairs of sets among pictures z [2 N, d], [P]: `first` [P, 2 N] has 1 for those in a pair's first
    set; the second has the same of the other N."""
    z = z - z.mean(0)
    products = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1)

    def moments(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = chosen.sum(axis=1)[:, None]
        mean = chosen @ z / count
        second = (chosen @ products).reshape(len(chosen), z.shape[1], z.shape[1])
        outer = count[..., None] * mean[:, :, None] * mean[:, None, :]
        return mean, (second - outer) / (count[..., None] - 1)

    (m, a), (n, b) = (moments(chosen) for chosen in (first, np.roll(first, len(z) // 2, axis=1)))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None] @ vectors.swapaxes(1, 2)
    # (A B)^(1/2) has the trace of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum(axis=1)
    return np.sum((m - n) ** 2, axis=1) + np.trace(a + b, axis1=1, axis2=2) - 2 * cross


def _pair(x: np.ndarray, y: np.ndarray, prompts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sets, and the prompts as numbers from 0."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise UserError(
            f"Two sets of features must be [N, d], as many of one as of the other, not {x.shape}, {y.shape}."
        )
    labels, numbers = np.unique(np.arange(len(x)) if prompts is None else prompts, return_inverse=True)
    if len(numbers) != len(x) or len(labels) < LEAST:
        raise UserError(f"A distance needs pictures of at least {LEAST} prompts, and the prompt of each.")
    return x, y, numbers
