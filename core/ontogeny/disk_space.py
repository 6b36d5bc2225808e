"""How much room a disk has, and one plain sentence when it has too little."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ontogeny.errors import CheckpointError

MEGABYTE = 10**6
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota, file size limit
_WORDS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def free_bytes(path: Path) -> int:
    """Return the free bytes of the file system on which a path lies or would lie."""
    return shutil.disk_usage(_existing(path)).free


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 if there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total


def full_disk_reason(error: BaseException) -> str | None:
    """Return the system's words if a full disk, a quota or a size limit is behind an error.

    Libraries hide it: torch raises a RuntimeError about positions on top of the OSError, and
    safetensors an error of its own that quotes the system.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _NUMBERS:
            return os.strerror(link.errno)
        quoted = next((words for words in _WORDS if words in str(link)), None)
        if quoted is not None:
            return quoted
        link = link.__cause__ or link.__context__
    return None


def full_disk_error(target: Path, needed: int, reason: str = _WORDS[0]) -> CheckpointError:
    """Return the error that names the file system without room, with what is needed and free."""
    mount = _existing(target).resolve()
    while not mount.is_mount():
        mount = mount.parent
    return CheckpointError(
        f"no space left on {mount} for {target} ({reason}): needed about {_megabytes(needed)} "
        f"or more, {_megabytes(free_bytes(mount))} free; make room there or choose a folder on "
        "another disk"
    )


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.{0 if size >= 10 * MEGABYTE else 1}f} MB"


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())
