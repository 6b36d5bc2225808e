"""A full disk ends a run with one clear line; once there is room, the same command goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.reliability.conftest import Ended, Place, Process

RUN = ("trainer.max_steps=40", "trainer.save_every_steps=10", "trainer.log_every=1")
KILOBYTE = 1000


@pytest.fixture(scope="module")
def small_disk(new_place: Callable[[], Place]) -> Iterator[Place]:
    """Yield a place whose store is a file system of 30 megabytes."""
    place = new_place()
    command = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(place.store)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", str(place.store)], check=True)


def leave(place: Place, free: int) -> None:
    """Fill the disk so that so many bytes stay free."""
    ballast = place.store / "ballast"
    ballast.unlink(missing_ok=True)
    size = shutil.disk_usage(place.store).free - free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


@pytest.fixture(scope="module")
def filled(unbroken_story: object, small_disk: Place) -> dict[str, tuple[Ended, list[str]]]:
    """Run into a full disk at three places; return how, and what was left half written."""
    del unbroken_story  # only asked for so that it goes on beside these
    story = {}

    def note(name: str, process: Process) -> None:
        story[name] = (process.end(), small_disk.unfinished)

    leave(small_disk, 30 * KILOBYTE)
    note("examples", small_disk.start(*RUN))
    leave(small_disk, 500 * KILOBYTE)
    note("training state", small_disk.start(*RUN))
    leave(small_disk, 5000 * KILOBYTE)
    process = small_disk.start(*RUN)
    process.wait_for(small_disk.store, "work/*/training_states/step-00000010")
    leave(small_disk, 0)
    note("log", process)
    leave(small_disk, 10_000 * KILOBYTE)
    note("room again", small_disk.start(*RUN))
    return story


@pytest.mark.parametrize("name", ["examples", "training state", "log"])
def test_one_line_names_the_disk(
    name: str, filled: dict[str, tuple[Ended, list[str]]], small_disk: Place
) -> None:
    ended, _ = filled[name]
    assert ended.code == 2
    line = rf"ontogeny: no space left on {small_disk.store} for \S+ \(No space left on device\): "
    assert re.fullmatch(line + r".*make room there.*\n", ended.err), ended


@pytest.mark.parametrize("name", ["examples", "training state", "log"])
def test_nothing_half_written_is_left(
    name: str, filled: dict[str, tuple[Ended, list[str]]]
) -> None:
    assert filled[name][1] == []


def test_with_room_again_the_run_ends_as_an_unbroken_one(
    filled: dict[str, tuple[Ended, list[str]]], small_disk: Place, unbroken: Place
) -> None:
    ended, unfinished = filled["room again"]
    assert (ended.code, unfinished) == (0, [])
    assert small_disk.weights == unbroken.weights
    assert small_disk.losses == unbroken.losses


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_named(new_place: Callable[[], Place]) -> None:
    place = new_place()
    limited = f"ulimit -f 100; exec {sys.executable} -m ontogeny data.path={place.text}"
    ended = place.start_command("sh", "-c", f"{limited} trainer.max_steps=2").end()
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "File too large" in ended.err
    assert place.unfinished == []
