"""Several processes train as one does; the first of them does all the rest."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from tests.reliability.conftest import Ended, Place

RUN = ("trainer.max_steps=30", "trainer.accelerator=cpu", "precision=32-true")
ONE = (*RUN, "data.batch_size=8")
TWO = (*RUN, "data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")
TWO_STARTED_BY_TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ontogeny")


@dataclass
class Story:
    """Two ranks were stopped by a signal, and one process went on."""

    place: Place
    stopped: Ended
    states: list[str]
    went_on: Ended


@pytest.fixture(scope="module")
def one(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[Place]:
    """Run one process with eight rows at once."""

    def tell() -> Place:
        place = new_place()
        place.succeed(*ONE)
        return place

    return both.submit(tell)


@pytest.fixture(scope="module")
def story(
    one: Future[Place], new_place: Callable[[], Place], both: ThreadPoolExecutor
) -> Future[Story]:
    del one  # only asked for so that it begins before this one

    def tell() -> Story:
        place = new_place()
        process = place.start(*TWO, "trainer.save_every_steps=1")
        process.wait_for(place.store, "work/*/training_states/step-00000010")
        process.send(signal.SIGTERM)
        stopped = process.end()
        states = [state.name for state in place.states]
        alone = (*TWO, "trainer.devices=1", "trainer.strategy=auto")
        return Story(place, stopped, states, place.succeed(*alone))

    return both.submit(tell)


@pytest.fixture(
    scope="module",
    params=["started by the first", pytest.param("torchrun", marks=pytest.mark.slow)],
)
def two(
    request: pytest.FixtureRequest, new_place: Callable[[], Place], story: object
) -> tuple[Place, Ended]:
    """Run two processes with four rows at once each."""
    del story  # only asked for so that it goes on beside this one
    place = new_place()
    if request.param == "started by the first":
        return place, place.succeed(*TWO)
    common = (sys.executable, *TWO_STARTED_BY_TORCHRUN, *place.common)
    return place, place.start_command(*common, *TWO).end()


def assert_same_weights(one: Place, other: Place) -> None:
    expected, weights = load(one.weights), load(other.weights)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_two_ranks_give_the_weights_of_one(two: tuple[Place, Ended], one: Future[Place]) -> None:
    place, ended = two
    assert ended.code == 0, ended
    assert_same_weights(one.result(), place)


def test_only_the_first_rank_writes(two: tuple[Place, Ended]) -> None:
    place, ended = two
    assert ended.out.count("\nrun: ") == 1
    assert [step for step, _ in place.losses] == list(range(30))
    assert len(list(place.folder.glob("outputs/*/*/status.json"))) == 1
    assert place.unfinished == []


def test_a_signal_to_the_first_rank_stops_all(story: Future[Story]) -> None:
    stopped = story.result().stopped
    line = "ontogeny: stopped by SIGTERM; the same command goes on from here\n"
    assert (stopped.code, stopped.err) == (143, line)


def test_a_run_goes_on_with_another_number_of_ranks(
    story: Future[Story], one: Future[Place]
) -> None:
    told = story.result()
    step = int(told.states[-1].removeprefix("step-"))
    assert f"going on from step {step}\n" in told.went_on.out
    assert step < 30
    assert_same_weights(one.result(), told.place)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_no_rank_outlives_the_others(first: bool, new_place: Callable[[], Place]) -> None:
    place = new_place()
    process = place.start(*TWO, "trainer.max_steps=100000", "trainer.save_every_steps=1")
    process.wait_for(place.store, "work/*/training_states/step-00000010")
    ranks = process.children
    assert len(ranks) == 1
    (process.popen if first else ranks[0]).send_signal(signal.SIGKILL)
    assert process.end().code == (-signal.SIGKILL if first else 1)
    ranks[0].wait(timeout=20)
