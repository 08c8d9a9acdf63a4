"""Computes distances between two sets of images of the same prompts, given as feature vectors; float64 NumPy.

Two images of one prompt are more alike than two of different prompts, whatever decoder made them. So prompts, not
images, are the samples, and intervals are over prompts. Both distances may be negative: for two sets of the same
distribution they are 0 on average, KID exactly, FD up to terms of second order in 1 / prompts.
"""

import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.eval.estimates import NORMAL_95, Estimate

LEAST = 8
"""Fewest prompts of a distance: with fewer, its interval would contain the true value too rarely."""

DIMS = 16
"""Number of axes of the Fréchet distance, whatever the number of images: it grows with the axes."""

ENOUGH = 8 * DIMS
"""Number of images from which on the remaining bias of FD, in `DIMS` axes, is small beside its interval."""

PARTS, SWAPS = 32, 32
"""For the Fréchet distance: the most groups of prompts in the jackknife, and the number of random exchanges."""


def kernel_distance(x: np.ndarray, y: np.ndarray, prompts: np.ndarray | None = None) -> Estimate:
    """KID: the squared maximum mean discrepancy under the kernel k(a, b) = (a.b / d + 1)^3 (arXiv 1801.01401).

    The mean of h = k(x, x') + k(y, y') - k(x, y') - k(x', y) over pairs of different prompts, a U-statistic (Gretton et
    al. 2012, JMLR 13, lemma 6), for which the x and y of one prompt may depend on each other. Unbiased. The interval
    has all values from which the observed mean is not too far, by the variance that it would have if they were true.

    Args:
        x, y: [N, d]; image i of both has the same prompt, or no prompt of one set is a prompt of the other.
        prompts: [N], the prompt of each; None: all are different.
    """
    x, y, prompts = _pair(x, y, prompts)
    inner = [(a @ b.T / x.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    members = np.eye(prompts.max() + 1)[:, prompts]
    share = members / members.sum(axis=1, keepdims=True)  # a product with values of images gives their mean per prompt
    return _score_interval(share @ (inner[0] + inner[1] - inner[2] - inner[2].T) @ share.T)


def _score_interval(h: np.ndarray) -> Estimate:
    """The mean m of a symmetric h [P, P] over pairs of different prompts, whose true value t is the squared length of a
    vector, the mean of one number vector per prompt.

    Var m = 2 / P(P-1) (b + 2 (P-1) a), where a = E h12 h13 - t^2 and b = E h12^2 - t^2 - 2 a (Hoeffding 1948). Near
    t = 0 the variance depends on the distance: a is t times the variance along the vector. So the interval has, as
    Wilson's for shares, all t with (m - t)^2 <= 1.96^2 Var m(t). The variance along the vector is a / t or, where m is
    not distinguishable from 0, the largest along any direction.
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
    """Mean [d] and the first principal axes [d, dims] of features [N, d]; fewer if there are no more.

    Use a separate set: along the axes of a compared set, that set would vary most, and so seem different.
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

    The fit alone is biased upwards by about dims^2 / N; the jackknife over prompts removes that. If both sets have the
    same distribution, the jackknife's variance is twice the true one. The true one is estimated by exchanging the sets'
    images of prompts at random; any excess of the jackknife over twice of it comes from the distance itself.

    Args:
        x, y, prompts: as for `kernel_distance`.
        axes: from `principal_axes`, the subspace of the distance; None uses all d dimensions.
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
    """FD of several pairs of sets among images z [2 N, d], [P]: `first` [P, 2 N] is 1 for the images of a pair's first
    set; the other N are its second set."""
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
    """Both sets, and the prompts numbered from 0."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise UserError(
            f"Two sets of features must be [N, d], as many of one as of the other, not {x.shape}, {y.shape}."
        )
    labels, numbers = np.unique(np.arange(len(x)) if prompts is None else prompts, return_inverse=True)
    if len(numbers) != len(x) or len(labels) < LEAST:
        raise UserError(f"A distance needs images of at least {LEAST} prompts, and the prompt of each.")
    return x, y, numbers
