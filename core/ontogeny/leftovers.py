"""Names for unfinished files and folders, and the removal of those that dead processes left."""

from __future__ import annotations

import functools
import logging
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DAY_SECONDS = 24 * 60 * 60
# <target>.<tmp or old>-<host>-<process id>-<process token>-<random>
_PATTERN = re.compile(
    r"(?P<target>.+)\.(?P<kind>tmp|old)-(?P<host>.+)-(?P<pid>\d+)-(?P<token>[0-9a-f]{8})-[0-9a-f]{8}"
)
_log = logging.getLogger("ontogeny.leftovers")


def unfinished_name(target: Path) -> Path:
    """Return a new name beside the target, for what is to become it."""
    return _beside(target, "tmp")


def aside_name(target: Path) -> Path:
    """Return a new name beside the target, for what it was while it is replaced."""
    return _beside(target, "old")


def sweep_stale(parent: Path) -> None:
    """Remove what dead processes left unfinished in a folder; put back what was being replaced.

    Whether a process of another host still runs is not known: its leavings go after a day.
    """
    for path in list(parent.iterdir()) if parent.is_dir() else []:
        match = _PATTERN.fullmatch(path.name)
        if match is None or not _is_stale(path, match):
            continue
        target = path.with_name(match["target"])
        with suppress(FileNotFoundError):  # another process may be sweeping too
            if match["kind"] == "old" and not target.exists():
                _log.warning("%s was cut off while it was replaced: the old one is back", target)
                path.rename(target)
            else:
                remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _beside(target: Path, kind: str) -> Path:
    mark = f"{kind}-{socket.gethostname()}-{os.getpid()}-{_process_token()}-{secrets.token_hex(4)}"
    return target.with_name(f"{target.name}.{mark}")


@functools.cache
def _process_token() -> str:
    """Return what tells this process from an earlier one of the same number."""
    return secrets.token_hex(4)


def _is_stale(path: Path, match: re.Match[str]) -> bool:
    """Return whether the process that made an unfinished file or folder is gone."""
    number = int(match["pid"])
    if match["host"] != socket.gethostname():
        return time.time() - _last_change(path) > DAY_SECONDS
    if number == os.getpid():
        # In a restarted container every process has the number of its forerunner.
        return match["token"] != _process_token()
    return not is_running(number)


def is_running(process: int) -> bool:
    """Say whether a process of this machine runs, by its number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs for another user
        return True
    return True


def _last_change(path: Path) -> float:
    """Return the time of the newest change at or below a path; now if it has just gone."""
    try:
        return max(place.lstat().st_mtime for place in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()
