"""The same command gives the same result, and gives it at once when it was run before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.reliability.conftest import Ended, Place


@pytest.fixture(scope="module")
def four_at_once(new_place: Callable[[], Place]) -> tuple[Place, list[Ended]]:
    """Start one command four times in the same moment; it is the one of `unbroken`."""
    place = new_place()
    started = [place.start("trainer.max_steps=40") for _ in range(4)]
    return place, [process.end() for process in started]


def test_a_run_in_another_store_gives_the_same_bytes(
    unbroken: Place, four_at_once: tuple[Place, list[Ended]]
) -> None:
    assert four_at_once[0].weights == unbroken.weights
    assert four_at_once[0].losses == unbroken.losses


def test_of_runs_at_the_same_time_one_trains_and_the_others_wait_for_it(
    four_at_once: tuple[Place, list[Ended]],
) -> None:
    place, ended = four_at_once
    assert [run.code for run in ended] == [0, 0, 0, 0], ended
    assert sum("finished before, nothing to train" in run.out for run in ended) == 3
    assert len(list(place.store.glob("stages/*"))) == 1
    assert sum("computes this stage; waiting for it" in run.out for run in ended) >= 1


def test_runs_of_the_same_second_have_folders_of_their_own_that_lead_to_the_result(
    four_at_once: tuple[Place, list[Ended]],
) -> None:
    place, _ = four_at_once
    links = [folder / "stages" / "pretraining" for folder in place.run_folders]
    assert [link.resolve() for link in links] == [place.stage] * 4


def test_a_finished_run_is_not_run_again(unbroken: Place) -> None:
    before = (unbroken.run_folders[0] / "metrics.json").read_bytes()
    changed = (unbroken.stage / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    again = unbroken.succeed("trainer.max_steps=40")
    assert f"pretraining: finished before, nothing to train ({unbroken.stage})" in again.out
    assert (unbroken.run_folders[-1] / "metrics.json").read_bytes() == before
    assert (unbroken.stage / "checkpoint" / "model.safetensors").stat().st_mtime_ns == changed
    assert unbroken.status["stages"] == {"pretraining": "cached"}
