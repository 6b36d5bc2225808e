"""Digests of JSON values, files and folders: the names under which results are stored."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

LENGTH = 32  # hex digits kept of a sha256: 128 bits, and still fit for a file name
RACY_NANOSECONDS = 2 * 10**9  # a file can change twice within one tick of its clock


def digest_json(value: object) -> str:
    """Return the digest of a value's canonical JSON: sorted keys, no spaces, floats by repr.

    Raises TypeError for what JSON does not know, a `Path` included: a path is where something
    lies, not what it is.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def sha256_file(path: Path) -> str:
    """Return the full sha256 of a file's content, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: Path, cache: DigestCache | None = None) -> str:
    """Return the digest of a file's content, read only when the cache does not know it."""
    if cache is None:
        return sha256_file(path)[:LENGTH]
    return cache.digest(path)


def digest_files(paths: Iterable[Path], cache: DigestCache | None = None) -> str:
    """Return the digest of several files' contents, in the given order, whatever their names."""
    return digest_json([digest_file(path, cache) for path in paths])


def digest_folder(
    folder: Path, ignore: Collection[str] = (), cache: DigestCache | None = None
) -> str:
    """Return the digest of all names and contents below a folder, wherever the folder lies.

    `ignore` holds paths relative to the folder, of files or of whole sub-folders. Links are
    followed; empty folders do not count.
    """
    files = sorted(_files(folder, frozenset(ignore)))
    return digest_json([[name, digest_file(folder / name, cache)] for name in files])


def _files(folder: Path, ignore: frozenset[str]) -> Iterator[str]:
    """Yield the relative name of every file below a folder."""
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        inside = os.path.relpath(place, folder)
        relative = {name: os.path.normpath(f"{inside}/{name}") for name in [*folders, *names]}
        folders[:] = [name for name in folders if relative[name] not in ignore]
        yield from (relative[name] for name in names if relative[name] not in ignore)


def _raise(error: OSError) -> None:
    """Do not pass over a folder that cannot be read: the digest would be of something else."""
    raise error


class DigestCache:
    """Remembers the digests of files by (resolved path, size, time of last change).

    One JSON line per file, appended in a single write, so that processes can share it. A line
    that is torn or damaged is passed over: the file it spoke of is read again. Without a file it
    remembers as long as it lives.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[tuple[str, int, int], str] | None = None

    def digest(self, path: Path) -> str:
        """Return the digest of a file's content."""
        if self._known is None:
            self._known = {} if self._file is None else dict(_remembered(self._file))
        key = _identity(path)
        known = self._known.get(key)
        if known is not None:
            return known
        digest = digest_file(path)
        if key == _identity(path) and time.time_ns() - key[2] > RACY_NANOSECONDS:
            self._known[key] = digest
            self._append(key, digest)
        return digest

    def _append(self, key: tuple[str, int, int], digest: str) -> None:
        """Write one line; a cache that cannot be written only costs time."""
        if self._file is None:
            return
        line = _line([*key, digest])
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                # The newline in front ends a line that a killed process left torn.
                file.write(f"\n{line}\n".encode())


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _line(record: list[str | int]) -> str:
    """Return a record with its checksum behind it."""
    text = json.dumps(record)
    return f"{text} {zlib.crc32(text.encode()):08x}"


def _remembered(file: Path) -> Iterator[tuple[tuple[str, int, int], str]]:
    """Yield what the sound lines of a cache say."""
    try:
        lines = file.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        text, _, checksum = line.rpartition(" ")
        if checksum == f"{zlib.crc32(text.encode()):08x}":
            path, size, changed, digest = json.loads(text)
            yield (path, size, changed), digest
