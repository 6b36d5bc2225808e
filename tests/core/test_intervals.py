"""Intervals against their definitions, and against how often they hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny.intervals import (
    Z,
    bootstrap_metric,
    mean_metric,
    ratio_interval,
    resampled_rows,
    share_metric,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(3, 10), (1, 7), (250, 400), (4.5, 9)])
def test_wilson_bounds_are_where_the_score_test_is_at_its_limit(
    successes: float, trials: int
) -> None:
    # By definition: |share - p| = z √(p (1 - p) / n), at both ends (Wilson, 1927).
    share = successes / trials
    for bound in wilson(successes, trials):
        assert abs(share - bound) == pytest.approx(Z * np.sqrt(bound * (1 - bound) / trials))


def test_wilson_gives_the_published_bounds_of_no_success_in_ten() -> None:
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=1e-4)  # z² / (n + z²)
    assert wilson(10, 10) == pytest.approx((1 - high, 1))


def test_wilson_holds_the_true_share_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    found = random.binomial(50, 0.3, 4000)
    held = [low <= 0.3 <= high for low, high in (wilson(each, 50) for each in found)]
    assert 0.93 < np.mean(held) < 0.975


def test_a_share_lies_in_its_interval_also_at_the_ends() -> None:
    for hits in (np.zeros(5), np.ones(5), np.array([1.0, 0, 0.5])):
        metric = share_metric(hits)
        assert metric.value == pytest.approx(hits.mean())
        assert metric.low is not None
        assert metric.high is not None
        assert 0 <= metric.low <= metric.value <= metric.high <= 1


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    metric = mean_metric(values, "points", 2000)
    half = Z * values.std() / 20
    assert metric.value == pytest.approx(values.mean())
    assert metric.low == pytest.approx(values.mean() - half, abs=0.05 * half * 2)
    assert metric.high == pytest.approx(values.mean() + half, abs=0.05 * half * 2)
    assert metric.unit == "points"


def test_the_bootstrap_draws_the_same_rows_every_time() -> None:
    values = np.arange(7.0)
    assert mean_metric(values, "1", 50) == mean_metric(values, "1", 50)
    first, again = list(resampled_rows(7, 3)), list(resampled_rows(7, 3))
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))


def test_an_interval_is_widened_to_hold_a_value_that_resamples_never_reach() -> None:
    def distinct(drawn: np.ndarray) -> float:
        return float(len(set(drawn.tolist())))

    metric = bootstrap_metric(distinct, 30, "rows", 100)
    assert metric.value == metric.high == 30  # a resample of 30 rows holds about 19 different ones
    assert metric.low is not None
    assert metric.low < 20


def test_a_ratio_of_sums_is_resampled_by_rows() -> None:
    top, bottom = np.array([1.0, 2, 3]), np.array([2.0, 2, 4])
    ratio, low, high = ratio_interval(top, bottom, 5000)
    assert ratio == pytest.approx(6 / 8)
    assert low == pytest.approx(0.5)  # all three draws are the first row: 1 of 27
    assert high == pytest.approx(1.0)
