"""Chi-square tests of drawn images against the enumerated distribution of all images of six tokens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ssd_jax.sequence.layout import Grid

GRID = Grid(2, 3)
SAMPLES = 24_000


def of_images(log_p, codes: int) -> np.ndarray:
    """Probability of every image, float64 [codes^6], from log p [codes^6, 6, codes] of `every_image`."""
    tokens = np.asarray(every_image(codes))
    law = np.exp(np.take_along_axis(np.asarray(log_p, np.float64), tokens[..., None], axis=-1)[..., 0].sum(axis=1))
    assert abs(law.sum() - 1.0) < 1e-4
    return law / law.sum()


def every_image(codes: int) -> jax.Array:
    """int32 [codes^6, 6], in order of the codes as digits."""
    return jnp.asarray(list(itertools.product(range(codes), repeat=GRID.size)), jnp.int32)


def p_value(tokens, law: np.ndarray, codes: int) -> float:
    """Of the chi-square of images int32 [SAMPLES, 6]; cells that expect less than 5 are pooled."""
    digits = codes ** np.arange(GRID.size - 1, -1, -1)
    counts, expected = np.bincount(np.asarray(tokens) @ digits, minlength=law.size), law * SAMPLES
    if counts[expected == 0].any():  # impossible images were drawn
        return 0.0
    big = expected >= 5
    counts, expected = np.append(counts[big], counts[~big].sum()), np.append(expected[big], expected[~big].sum())
    statistic = float(((counts - expected) ** 2 / expected).sum())
    print(f"chi-square {statistic:.0f} on {len(counts) - 1} degrees of freedom")
    return float(stats.chi2.sf(statistic, len(counts) - 1))
