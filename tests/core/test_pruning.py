"""The median rule among the jobs of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ontogeny.errors import ConfigError
from ontogeny.evaluator import Metric
from ontogeny.options import Sweep
from ontogeny.pruning import FILE, Pruning


def pruning(sweep: Path, job: str, metric: str | None = "perplexity/bits_per_byte") -> Pruning:
    (sweep / job).mkdir()
    return Pruning(sweep / job, Sweep(prune=metric, prune_after=2))


def results(value: float, name: str = "bits_per_byte") -> dict[str, dict[str, Metric]]:
    return {"perplexity": {name: Metric(value, "bits/byte")}}


def test_a_job_behind_the_median_of_the_others_ends_with_the_reason(tmp_path: Path) -> None:
    for job, value in (("0", 2.0), ("1", 2.2)):
        assert not pruning(tmp_path, job).look("s", 10, results(value))
    late = pruning(tmp_path, "2")
    assert late.look("s", 10, results(2.5))
    assert late.reason == (
        "perplexity/bits_per_byte was 2.5 at best up to step 10, behind the median of 2 other "
        "jobs, 2.1 (sweep.prune)"
    )


def test_a_job_as_good_as_the_median_goes_on(tmp_path: Path) -> None:
    for job, value in (("0", 2.0), ("1", 2.2)):
        pruning(tmp_path, job).look("s", 10, results(value))
    assert not pruning(tmp_path, "2").look("s", 10, results(2.1))


def test_more_is_better_where_the_name_of_the_metric_says_so(tmp_path: Path) -> None:
    for job, value in (("0", 0.5), ("1", 0.7)):
        pruning(tmp_path, job, "perplexity/accuracy").look("s", 10, results(value, "accuracy"))
    last = pruning(tmp_path, "2", "perplexity/accuracy")
    assert last.look("s", 10, results(0.4, "accuracy"))


def test_the_best_value_so_far_is_what_counts(tmp_path: Path) -> None:
    for job in ("0", "1"):
        pruning(tmp_path, job).look("s", 20, results(2.0))
    wavering = pruning(tmp_path, "2")
    wavering.look("s", 10, results(1.9))
    assert not wavering.look("s", 20, results(3.0))


def test_only_the_same_step_of_the_same_stage_is_compared(tmp_path: Path) -> None:
    for job in ("0", "1"):
        pruning(tmp_path, job).look("s", 10, results(1.0))
    other = pruning(tmp_path, "2")
    assert not other.look("s", 20, results(3.0))
    assert not other.look("t", 10, results(3.0))


def test_before_the_first_step_nobody_is_behind(tmp_path: Path) -> None:
    job = pruning(tmp_path, "0")
    assert not job.look("s", 0, results(9.0))
    assert not (tmp_path / "0" / FILE).exists()


def test_without_a_metric_nothing_is_written(tmp_path: Path) -> None:
    assert not pruning(tmp_path, "0", None).look("s", 10, results(9.0))
    assert not (tmp_path / "0" / FILE).exists()


def test_what_was_measured_is_kept_by_stage_and_step(tmp_path: Path) -> None:
    job = pruning(tmp_path, "0")
    job.look("s", 10, results(2.0))
    job.look("s", 20, results(1.5))
    assert json.loads((tmp_path / "0" / FILE).read_text()) == {"s": {"10": 2.0, "20": 1.5}}


def test_a_metric_that_nothing_measures_is_told(tmp_path: Path) -> None:
    job = pruning(tmp_path, "0", "perplexity/bits_per_bite")
    with pytest.raises(ConfigError, match=r"sweep.prune is .*did you mean 'perplexity/bits_per_b"):
        job.look("s", 10, results(2.0))
