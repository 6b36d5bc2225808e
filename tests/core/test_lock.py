"""Locks among machines: a lease counts as long as its holder gives signs of life."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ontogeny.errors import OntogenyError
from ontogeny.lock import Lock, held_since, holder, is_held


class WithoutFlock(Lock):
    """A lock on a file system that has no `flock`, or whose `flock` ends at the machine."""

    def __init__(self, path: Path, machine: str, dead_seconds: float = 0.4) -> None:
        super().__init__(path, machine=machine, dead_seconds=dead_seconds)

        class Absent:
            lock_file = str(path)

            def acquire(self, *, blocking: bool) -> None:
                raise NotImplementedError

            def release(self) -> None:
                pass

        self._flock = Absent()  # type: ignore[assignment]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stages-k"


def test_one_of_two_machines_has_it(path: Path) -> None:
    one, two = WithoutFlock(path, "one"), WithoutFlock(path, "two")
    assert one.try_acquire()
    assert not two.try_acquire()
    one.release()
    assert two.try_acquire()
    two.release()
    assert not one.lease.exists()


def test_a_holder_who_lives_keeps_it_beyond_the_time_after_which_he_would_be_dead(
    path: Path,
) -> None:
    one, two = WithoutFlock(path, "one"), WithoutFlock(path, "two")
    assert one.try_acquire()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert not two.try_acquire()
        time.sleep(0.05)
    one.require()
    one.release()


def test_a_lease_without_signs_of_life_is_taken_over_and_its_holder_told(path: Path) -> None:
    one, two = WithoutFlock(path, "one"), WithoutFlock(path, "two")
    assert one.try_acquire()
    one._released.set()  # its machine stands still
    assert not two.try_acquire()
    time.sleep(0.5)
    assert two.try_acquire()
    with pytest.raises(OntogenyError, match="another machine has taken over its work"):
        one.require()
    one.release()
    assert holder(path)  # the other one's lease is still there
    two.release()


def test_a_dead_process_of_this_machine_is_found_by_its_number(path: Path) -> None:
    gone = {"machine": "one", "host": "a", "pid": 2**22 + 1, "token": "x"}
    lock = WithoutFlock(path, "one")
    lock.lease.write_text(json.dumps(gone))
    assert lock.try_acquire()
    lock.release()


def test_with_flock_a_dead_process_of_this_machine_costs_no_waiting(path: Path) -> None:
    dead = Lock(path)
    dead.lease.write_text(dead._content())  # its flock is free
    lock = Lock(path)
    assert lock.try_acquire()
    lock.release()


def test_flock_alone_keeps_another_process_of_this_machine_away(path: Path) -> None:
    one, two = Lock(path), Lock(path)
    assert one.try_acquire()
    one.lease.unlink()
    assert not two.try_acquire()
    one.release()


def test_who_has_a_lock_and_since_when_can_be_asked(path: Path) -> None:
    assert not is_held(path)
    assert (holder(path), held_since(path)) == ("", 0.0)
    lock = Lock(path)
    assert lock.try_acquire()
    assert is_held(path)
    assert holder(path).endswith(f"process {os.getpid()}")
    assert time.time() - held_since(path) < 60
    lock.release()
    assert not is_held(path)


def test_a_lease_of_another_machine_that_is_hours_old_is_not_held(path: Path) -> None:
    lease = Lock(path).lease
    lease.write_text(json.dumps({"machine": "other", "host": "b", "pid": 1, "token": "x"}))
    assert is_held(path)
    os.utime(lease, (time.time() - 7200,) * 2)
    assert not is_held(path)


def test_what_is_half_written_is_no_free_lock(path: Path) -> None:
    lock = WithoutFlock(path, "two")
    lock.lease.write_text("")
    assert not lock.try_acquire()
