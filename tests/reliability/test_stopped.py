"""A run that a signal or its time limit stops saves and goes on with the same command."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from tests.reliability.conftest import Ended, Place

RUN = ("trainer.max_steps=40", "trainer.save_every_steps=1")  # the run of `unbroken`
CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}
IN_TURN = {"SIGTERM": 5, "SIGINT": 20}  # the step at which the story below is stopped
LIMITED = ("trainer.max_time=1s", "trainer.max_steps=100000", "preflight=off")


@dataclass
class Stopped:
    """What was there after a run was stopped."""

    place: Place
    ended: Ended
    status: dict[str, object]
    states: list[str]
    logged: int  # steps in the log


@dataclass
class Story:
    """A run that was stopped by one signal after another, and whose newest state then rotted."""

    place: Place
    stopped: dict[str, Stopped]
    flipped: Path
    ended: Ended


@pytest.fixture(scope="module")
def story(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[Story]:
    def tell() -> Story:
        place, stopped = new_place(), {}
        for name, step in IN_TURN.items():
            stopped[name] = stop(place, step, name)
        flipped = place.states[-1]
        flip_a_byte(flipped / "state.pt")
        return Story(place, stopped, flipped, place.succeed(*RUN))

    return both.submit(tell)


@pytest.fixture(scope="module")
def twice(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[Stopped]:
    """Send the signal twice, as `timeout` does: to its child, and to the process group."""
    return both.submit(lambda: stop(new_place(), 5, "SIGUSR1", times=2))


@pytest.fixture(scope="module")
def limited(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[list[Stopped]]:
    """Run the same command twice with little time."""

    def tell() -> list[Stopped]:
        place = new_place()
        return [note(place, place.succeed(*LIMITED)) for _ in range(2)]

    return both.submit(tell)


@pytest.fixture(scope="module")
def stopped(
    story: Future[Story], twice: Future[Stopped], limited: Future[list[Stopped]]
) -> dict[str, Stopped]:
    del limited  # only asked for so that it goes on beside these
    return {**story.result().stopped, "SIGUSR1": twice.result()}


def stop(place: Place, step: int, name: str, *, times: int = 1) -> Stopped:
    process = place.start(*RUN)
    process.wait_for(place.store, f"work/*/training_states/step-{step:08}")
    for _ in range(times):
        process.send(signal.Signals[name])
        time.sleep(0.01)
    return note(place, process.end())


def note(place: Place, ended: Ended) -> Stopped:
    states = [state.name for state in place.states]
    return Stopped(place, ended, place.status, states, len(place.losses))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", CODES)
def test_the_exit_code_names_the_signal(stopped: dict[str, Stopped], name: str) -> None:
    assert stopped[name].ended.code == CODES[name]


@pytest.mark.parametrize("name", CODES)
def test_one_line_says_what_happened_and_what_to_do(stopped: dict[str, Stopped], name: str) -> None:
    line = f"ontogeny: stopped by {name}; the same command goes on from here\n"
    assert stopped[name].ended.err == line


@pytest.mark.parametrize("name", CODES)
def test_the_status_file_has_the_reason(stopped: dict[str, Stopped], name: str) -> None:
    status = stopped[name].status
    assert (status["state"], status["exit_code"]) == ("interrupted", CODES[name])
    assert str(status["reason"]).startswith(f"stopped by {name}")


@pytest.mark.parametrize("name", CODES)
def test_no_step_is_lost(stopped: dict[str, Stopped], name: str) -> None:
    assert stopped[name].states[-1] == f"step-{stopped[name].logged:08}"


def test_the_next_start_goes_on_from_there(stopped: dict[str, Stopped]) -> None:
    assert f"going on from step {stopped['SIGTERM'].logged}\n" in stopped["SIGINT"].ended.out


def test_a_damaged_training_state_is_named_and_the_one_before_is_taken(
    story: Future[Story],
) -> None:
    told = story.result()
    before = told.stopped["SIGINT"].states[-2]
    damage = f"training state {told.flipped} is damaged (state.pt does not match its digest)"
    assert f"{damage}; taking {before}\n" in told.ended.err
    assert f"going on from step {int(before.removeprefix('step-'))}\n" in told.ended.out


def test_the_weights_and_losses_are_those_of_an_unbroken_run(
    story: Future[Story], unbroken: Place
) -> None:
    assert story.result().place.weights == unbroken.weights
    assert story.result().place.losses == unbroken.losses
    assert [step for step, _ in unbroken.losses] == list(range(40))


@pytest.mark.parametrize("seconds", [0.3, 1.2])
def test_a_signal_before_the_training_tears_nothing(
    seconds: float, new_place: Callable[[], Place]
) -> None:
    place = new_place()
    process = place.start(*RUN)
    time.sleep(seconds)
    process.send(signal.SIGTERM)
    assert process.end().code in {143, -signal.SIGTERM}
    assert place.unfinished == []


def test_a_run_stops_when_its_time_is_up(limited: Future[list[Stopped]]) -> None:
    first, second = limited.result()
    assert (first.ended.code, first.ended.err) == (0, "")
    line = f"ended after {first.logged} steps: time is up; the same command goes on"
    assert line in first.ended.out
    assert second.status["state"] == "unfinished"
    assert second.status["stages"] == {"pretraining": "unfinished"}
    assert list(second.place.store.glob("stages/*")) == []


def test_the_time_counts_anew_in_every_process(limited: Future[list[Stopped]]) -> None:
    first, second = limited.result()
    assert f"going on from step {first.logged}\n" in second.ended.out
    assert second.logged - first.logged > first.logged / 4 > 1


def test_a_checkpoint_that_opens_is_left_when_the_time_is_up(
    limited: Future[list[Stopped]],
) -> None:
    run = limited.result()[-1].place.run_folders[-1]
    model = AutoModelForCausalLM.from_pretrained(run / "stages" / "pretraining" / "checkpoint")
    assert model.config.hidden_size == 32


@pytest.mark.slow
def test_a_signal_to_the_worker_processes_too_is_one_to_the_run(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    process = place.start("trainer.max_steps=4000", "trainer.save_every_steps=1", "data.workers=2")
    process.wait_for(place.store, "work/*/training_states/step-00000005")
    process.send_to_all(signal.SIGINT)
    ended = process.end()
    assert (ended.code, ended.err.count("\n")) == (130, 1), ended
    assert place.states[-1].name == f"step-{len(place.losses):08}"
