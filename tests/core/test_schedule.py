"""Learning-rate factors against values by hand and the closed forms of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from ontogeny.errors import ConfigError
from ontogeny.options import Schedule
from ontogeny.schedule import factor, warmup_steps


def curve(schedule: Schedule, steps: int) -> list[float]:
    return [factor(schedule, step, steps) for step in range(steps)]


def test_warm_up_rises_by_equal_steps_and_reaches_one_at_its_end() -> None:
    schedule = Schedule(shape="constant", warmup_steps=4)
    assert curve(schedule, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    for shape in ("cosine", "linear", "constant", "wsd"):
        assert factor(Schedule(shape=shape, warmup_steps=0), 0, 10) == 1.0


def test_warm_up_takes_its_share_of_all_steps() -> None:
    assert warmup_steps(Schedule(warmup_share=0.05), 1000) == 50
    assert warmup_steps(Schedule(warmup_share=0.05), 9) == 0
    assert warmup_steps(Schedule(warmup_share=0.5, warmup_steps=3), 1000) == 3


def test_cosine_goes_through_its_quarter_points() -> None:
    schedule = Schedule(shape="cosine", warmup_steps=0, min_ratio=0.1)
    # low + (1 - low)(1 + cos πp)/2 at p = 0, 1/4, 1/2, 3/4
    quarter = 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2
    three_quarters = 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2
    points = [factor(schedule, step, 100) for step in (0, 25, 50, 75, 100)]
    assert points == pytest.approx([1.0, quarter, 0.55, three_quarters, 0.1])


def test_cosine_to_zero_equals_the_schedule_of_transformers_behind_the_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=50)
    schedule = Schedule(shape="cosine", warmup_steps=10, min_ratio=0.0)
    for step in range(50):
        if step >= 10:  # their warm-up begins with a step of nothing
            assert factor(schedule, step, 50) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_linear_falls_by_equal_steps_to_the_least_ratio() -> None:
    schedule = Schedule(shape="linear", warmup_steps=2, min_ratio=0.2)
    points = [factor(schedule, step, 10) for step in (2, 4, 6, 8, 10)]
    assert points == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_wsd_is_stable_until_its_last_part_and_then_falls_like_one_minus_a_root() -> None:
    schedule = Schedule(shape="wsd", warmup_steps=10, decay_share=0.2, min_ratio=0.0)
    assert {factor(schedule, step, 100) for step in range(10, 81)} == {1.0}
    # Hägele et al. 2024: 1 - sqrt((t - T + D) / D), with D = 20 of T = 100 steps
    assert factor(schedule, 85, 100) == pytest.approx(1 - math.sqrt(5 / 20))
    assert factor(schedule, 95, 100) == pytest.approx(1 - math.sqrt(15 / 20))
    assert factor(schedule, 100, 100) == pytest.approx(0.0)


def test_wsd_without_a_decay_stays_at_its_peak() -> None:
    schedule = Schedule(shape="wsd", warmup_steps=0, decay_share=0.0)
    assert curve(schedule, 10) == [1.0] * 10


def test_wsd_begins_its_decay_at_the_peak_though_the_warm_up_reaches_into_it() -> None:
    schedule = Schedule(shape="wsd", warmup_steps=50, decay_share=1.0, min_ratio=0.0)
    assert factor(schedule, 50, 100) == 1.0
    assert factor(schedule, 75, 100) == pytest.approx(1 - math.sqrt(0.5))


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_every_factor_is_above_zero_and_at_most_one(shape: str, steps: int) -> None:
    factors = curve(Schedule(shape=shape), steps)
    assert all(0 < each <= 1 for each in factors)


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
def test_what_falls_never_rises_again_and_ends_at_the_least_ratio(shape: str) -> None:
    factors = curve(Schedule(shape=shape, warmup_steps=5, min_ratio=0.1), 101)[5:]
    assert factors == sorted(factors, reverse=True)
    assert factor(Schedule(shape=shape, warmup_steps=5, min_ratio=0.1), 101, 101) == (
        pytest.approx(0.1)
    )


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("shape", "cosin", "scheduler.shape is 'cosin'; expected one of cosine, linear"),
        ("warmup_steps", -1, "scheduler.warmup_steps is -1; expected 0 or more"),
        ("warmup_share", 2.0, "scheduler.warmup_share is 2.0; expected a number from 0 to 1"),
        ("decay_share", -0.1, "scheduler.decay_share is -0.1"),
        ("min_ratio", 1.5, "scheduler.min_ratio is 1.5"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(option: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Schedule(**{option: value})  # type: ignore[arg-type]
