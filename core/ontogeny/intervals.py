"""95 % intervals of what is measured over rows: Wilson's for shares, the bootstrap for the rest."""
# N rows, R resamples

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ontogeny.evaluator import Metric

LEVEL = 0.95
Z = 1.959963984540054  # of the standard normal distribution, for LEVEL


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Return the interval of a share (Wilson, 1927): inside 0..1, also where none or all succeed.

    `successes` need not be whole: a tie may count in part. `trials` is 1 or more.
    """
    share, weight = successes / trials, Z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    # What rounding takes away at the ends: the share itself is always inside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def exact(value: float, unit: str) -> Metric:
    """Return what is known and not estimated, such as a count: it is its own interval."""
    return Metric(value, unit, value, value)


def share_metric(hits_N: np.ndarray) -> Metric:
    """Return the mean of hits (0 to 1 each, one or more) with Wilson's interval."""
    successes = float(hits_N.sum())
    low, high = wilson(successes, len(hits_N))
    return Metric(successes / len(hits_N), "1", low, high)


def bootstrap_metric(
    statistic: Callable[[np.ndarray], float], rows: int, unit: str, resamples: int
) -> Metric:
    """Return a statistic of all rows with its bootstrap interval (Efron, 1979).

    `statistic` is given the indices of rows, [N], in which a resample may name one repeatedly. The
    interval is that of percentiles, widened where the value itself lies outside of it.
    """
    value = statistic(np.arange(rows))
    found_R = np.array([statistic(drawn_N) for drawn_N in resampled_rows(rows, resamples)])
    low, high = np.quantile(found_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, unit, min(value, float(low)), max(value, float(high)))


def mean_metric(values_N: np.ndarray, unit: str, resamples: int) -> Metric:
    """Return the mean of a value per row with its bootstrap interval."""
    return bootstrap_metric(
        lambda drawn_N: float(values_N[drawn_N].mean()), len(values_N), unit, resamples
    )


def ratio_interval(
    top_N: np.ndarray, bottom_N: np.ndarray, resamples: int
) -> tuple[float, float, float]:
    """Return Σ top / Σ bottom with its bootstrap interval over rows."""
    low, high = np.quantile(resampled_ratios(top_N, bottom_N, resamples), [0.025, 0.975])
    return float(top_N.sum() / bottom_N.sum()), float(low), float(high)


def resampled_ratios(
    top_N: np.ndarray, bottom_N: np.ndarray, resamples: int, seed: int = 0
) -> np.ndarray:
    """Return Σ top / Σ bottom of rows drawn with replacement, [R]."""
    drawn = resampled_rows(len(top_N), resamples, seed)
    return np.array([top_N[drawn_N].sum() / bottom_N[drawn_N].sum() for drawn_N in drawn])


def resampled_rows(rows: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the indices of rows drawn with replacement, [N] for each resample."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(0, rows, rows)
