"""A run that is killed at any moment goes on, and ends as one that never was."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ontogeny.folders import find_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from tests.reliability.conftest import Ended, Place

# 2.2 million weights: saving a training state takes about as long as a step.
LARGE = (
    "model.config.hidden_size=256",
    "model.config.num_hidden_layers=2",
    "model.config.intermediate_size=1024",
    "trainer.save_every_steps=1",
)
LARGER = (*LARGE, "trainer.max_steps=5")
LONGER = (*LARGE, "trainer.max_steps=60")  # about nine seconds of training
CHAINS = {
    "before and in the training": (
        "examples/*.tmp-*/input_ids.bin",
        "work/*/training_states/*1.tmp-*/state.pt",
        "work/*/training_states/*3.tmp-*/state.pt",
    ),
    "after the training": (
        "work/*/checkpoint.tmp-*/model.safetensors",
        "work/*/checkpoint/README.md",  # being measured
        "work/*.training_states",  # being put into the store
    ),
}
MEMORY = Path("/dev/shm")  # another file system than that of the store


@dataclass
class Story:
    """A place where runs were killed, and what was found after each of them."""

    place: Place
    damaged: list[str] = field(default_factory=list)  # states that a start takes and must not
    torn: list[str] = field(default_factory=list)
    ended: Ended | None = None

    def note(self) -> None:
        """Look at what the kill left: the newest training state is what the next start takes."""
        self.torn += self.place.unfinished
        with suppress(AssertionError):  # of a kill before the stage began
            self.damaged += [str(path) for path in self.place.states[-1:] if find_damage(path)]


@pytest.fixture(scope="module")
def larger_story(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[Place]:
    """Return the run that goes through at once; it goes on beside those that are killed."""

    def tell() -> Place:
        place = new_place()
        place.succeed(*LARGER)
        return place

    return both.submit(tell)


@pytest.fixture(scope="module")
def stories(
    larger_story: Future[Place], new_place: Callable[[], Place], both: ThreadPoolExecutor
) -> dict[str, Future[Story]]:
    """Kill one run at every moment of a chain, then let it end."""
    del larger_story  # only asked for so that it begins before these
    temporary = {"TMPDIR": str(MEMORY)} if MEMORY.is_dir() else {}

    def tell(chain: Sequence[str]) -> Story:
        story = Story(new_place())
        for pattern in chain:
            process = story.place.start(*LARGER, **temporary)
            process.wait_for(story.place.store, pattern)
            process.kill()
            story.note()
        story.ended = story.place.succeed(*LARGER, **temporary)
        return story

    return {name: both.submit(tell, chain) for name, chain in CHAINS.items()}


@pytest.fixture(scope="module")
def whole(larger_story: Future[Place]) -> Place:
    return larger_story.result()


@pytest.fixture(scope="module", params=CHAINS)
def killed(request: pytest.FixtureRequest, stories: dict[str, Future[Story]]) -> Story:
    return stories[request.param].result()


def test_the_weights_are_those_of_an_unbroken_run(killed: Story, whole: Place) -> None:
    assert killed.place.weights == whole.weights


def test_the_log_has_every_step_once_with_the_same_loss(killed: Story, whole: Place) -> None:
    assert [step for step, _ in killed.place.losses] == list(range(5))
    assert killed.place.losses == whole.losses


def test_every_training_state_that_a_start_takes_is_sound(killed: Story) -> None:
    assert killed.damaged == []


def test_nothing_half_written_is_left(killed: Story) -> None:
    assert killed.torn
    assert killed.place.unfinished == []
    assert [path.name for path in (killed.place.store / "work").iterdir()] == []


def test_a_training_is_not_repeated_when_its_end_was_killed(
    stories: dict[str, Future[Story]],
) -> None:
    ended = stories["after the training"].result().ended
    assert ended is not None
    assert "going on from step 5" in ended.out


@pytest.fixture(scope="module")
def longer(new_place: Callable[[], Place]) -> Place:
    place = new_place()
    place.succeed(*LONGER)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_change_nothing(
    seed: int, longer: Place, new_place: Callable[[], Place]
) -> None:
    moments = random.Random(seed)
    story = Story(new_place())
    for _ in range(8):
        process = story.place.start(*LONGER, TMPDIR=str(MEMORY))
        time.sleep(moments.uniform(2, 8))
        process.kill()
        story.note()
    story.place.succeed(*LONGER)
    assert story.place.weights == longer.weights
    assert story.place.losses == longer.losses
    assert (story.damaged, story.place.unfinished) == ([], [])
