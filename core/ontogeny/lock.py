"""Locks between processes and machines that share a folder: one holder, who says that he lives.

Two things together: the system's own lock (`flock`), which is free at once when its holder ends,
however that comes; and a lease, a file with the holder's name that is renewed, for file systems
where `flock` does not reach other machines, or is not there at all. A lease of another machine
counts until it has not been renewed for `DEAD_SECONDS` of the watcher's own clock.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ontogeny.errors import OntogenyError
from ontogeny.leftovers import is_running, unfinished_name

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.2  # between two looks at a lock that someone else holds
BEAT_SECONDS = 15.0  # between two signs of life
DEAD_SECONDS = 120.0  # without a sign of life, after which a lease of another machine is void
LONG_DEAD_SECONDS = 3600.0  # the same by the clock of the file system, for who cannot wait
_log = logging.getLogger("ontogeny.store")


@cache
def this_machine() -> str:
    """Return what tells this machine, since it was started, from all others.

    Containers on one machine share it, as they share its `flock`; their host names differ.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class Lock:
    """A lock with a name of its own in a shared folder; not for two threads of one process."""

    def __init__(
        self, path: Path, *, machine: str | None = None, dead_seconds: float = DEAD_SECONDS
    ) -> None:
        self.lease = path.with_name(f"{path.name}.lease")
        self.machine = machine or this_machine()
        self.dead_seconds = dead_seconds
        self.lost = False  # another machine has taken it for abandoned
        self._flock = FileLock(path.with_name(f"{path.name}.lock"))
        self._has_flock = True
        self._token = secrets.token_hex(8)
        self._beats, self._since = 0, time.time()
        self._seen: tuple[str | None, float] = (None, 0.0)  # a lease, and when first seen so
        self._released = threading.Event()

    def acquire(self, waiting: Callable[[], None] | None = None) -> None:
        """Take the lock; call `waiting` once if another has it."""
        if not self.try_acquire():
            if waiting is not None:
                waiting()
            while not self.try_acquire():
                time.sleep(POLL_SECONDS)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            self._flock.acquire(blocking=False)
        except Timeout:
            return False
        except NotImplementedError:  # the file system has no flock: the lease alone decides
            self._has_flock = False
        if self._claim():
            threading.Thread(target=self._beat, daemon=True).start()
            return True
        self._flock.release()
        return False

    def release(self) -> None:
        """Free the lock."""
        self._released.set()
        if _token_of(_read(self.lease)) == self._token:
            self.lease.unlink(missing_ok=True)
        self._flock.release()

    def forget(self) -> None:
        """Remove what is left of a lock that nobody else will ever ask for."""
        Path(self._flock.lock_file).unlink(missing_ok=True)

    def require(self) -> None:
        """Raise OntogenyError where another machine has taken the lock over."""
        if self.lost or _token_of(_read(self.lease)) not in {self._token, ""}:
            msg = (
                f"{self.lease}: this process gave no sign of life for {self.dead_seconds:.0f} s, "
                f"so another machine has taken over its work; the result will be that one's"
            )
            raise OntogenyError(msg)

    def _claim(self) -> bool:
        """Write the lease if there is none, or one of a holder who is gone."""
        found = _read(self.lease)
        if found is None:
            return self._create()
        return self._is_dead(found) and self._take_over(found)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(self._content())
        return True

    def _is_dead(self, found: str) -> bool:
        owner = _owner_of(found)
        if owner.get("machine") == self.machine:
            # Who has the flock of his own machine knows that no one else there has it.
            return self._has_flock or not is_running(int(str(owner.get("pid", 0))))
        now = time.monotonic()
        if found != self._seen[0]:
            self._seen = (found, now)
        return now - self._seen[1] >= self.dead_seconds

    def _take_over(self, found: str) -> bool:
        """Replace a dead lease, if no other watcher is about to do so."""
        guard = self.lease.with_name(f"{self.lease.name}.taken")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if _age(guard) > max(1.0, self.dead_seconds):  # it died in the act
                guard.unlink(missing_ok=True)
            return False
        try:
            if _read(self.lease) != found:
                return False
            self._write()
            return True
        finally:
            guard.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Renew the lease until it is released, or somebody else's."""
        while not self._released.wait(min(BEAT_SECONDS, self.dead_seconds / 8)):
            with suppress(OSError):  # a server that is away for a while
                if _token_of(_read(self.lease)) != self._token:
                    self.lost = not self._released.is_set()
                    if self.lost:
                        _log.warning("%s was taken over by another machine", self.lease)
                    return
                self._beats += 1
                self._write()

    def _write(self) -> None:
        unfinished = unfinished_name(self.lease)
        unfinished.write_text(self._content())
        unfinished.replace(self.lease)

    def _content(self) -> str:
        owner = {"machine": self.machine, "host": socket.gethostname(), "pid": os.getpid()}
        now = {"token": self._token, "since": self._since, "beat": self._beats}
        return json.dumps({**owner, **now})


def is_held(path: Path) -> bool:
    """Say whether a lock is held now, without waiting to see whether its holder lives."""
    lock = Lock(path)
    found = _read(lock.lease)
    if lock.try_acquire():
        lock.release()
        return False
    if found is None or _owner_of(found).get("machine") == lock.machine:
        return True
    return _age(lock.lease) < LONG_DEAD_SECONDS


def held_since(path: Path) -> float:
    """Return when a lock was taken, by the holder's clock; 0 where nobody says."""
    owner = _owner_of(_read(path.with_name(f"{path.name}.lease")) or "")
    return float(str(owner.get("since", 0.0)))


def holder(path: Path) -> str:
    """Return host and process of who has the lock, as its lease says; empty where there is none."""
    owner = _owner_of(_read(path.with_name(f"{path.name}.lease")) or "")
    return f"{owner['host']}, process {owner['pid']}" if {"host", "pid"} <= owner.keys() else ""


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _owner_of(lease: str) -> dict[str, object]:
    try:
        content = json.loads(lease)
    except ValueError:  # just being written
        return {}
    return content if isinstance(content, dict) else {}


def _token_of(lease: str | None) -> str:
    return "" if lease is None else str(_owner_of(lease).get("token", ""))


def _age(file: Path) -> float:
    """Return the seconds since a file was changed, by the clock of its file system."""
    probe = unfinished_name(file)
    try:
        probe.touch()
        return probe.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
