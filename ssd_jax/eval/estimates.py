"""Computes estimates with 95 % intervals; float64 NumPy."""

import dataclasses

import numpy as np

NORMAL_95 = 1.96


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which is NaN if there are too few samples."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, deviation: float) -> "Estimate":
        """A normal interval from a standard error."""
        half = NORMAL_95 * float(deviation)
        return cls(float(value), float(value) - half, float(value) + half)

    @classmethod
    def mean(cls, values: np.ndarray, prompts: np.ndarray | None = None) -> "Estimate":
        """The mean of values [N] over prompts: values of one prompt, by `prompts` int [N], count as one.

        None: all prompts are different.
        """
        means = np.asarray(values, np.float64)
        if prompts is not None:
            _, numbers = np.unique(prompts, return_inverse=True)
            means = np.bincount(numbers, means) / np.bincount(numbers)
        error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        return cls.around(means.mean(), error)

    @classmethod
    def share(cls, hits: int, count: int) -> "Estimate":
        """hits / count with Wilson's interval (doi.org/10.1080/01621459.1927.10502953)."""
        share, z2 = hits / count, NORMAL_95**2
        middle = (share + z2 / (2 * count)) / (1 + z2 / count)
        half = NORMAL_95 * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
        return cls(share, float(middle - half), float(middle + half))
