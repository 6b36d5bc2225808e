"""Folders and files that are there as a whole or not at all: write beside, sync, rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from ontogeny.digest import LENGTH, digest_file, digest_json, sha256_file
from ontogeny.disk_space import folder_size, full_disk_error, full_disk_reason
from ontogeny.errors import CheckpointError
from ontogeny.leftovers import aside_name, remove_tree, unfinished_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ontogeny.digest import DigestCache

MANIFEST = "MANIFEST.json"


class FileFacts(TypedDict):
    """What a manifest says of one file."""

    size: int  # bytes
    sha256: str


class Manifest(TypedDict):
    """The content of `MANIFEST.json`."""

    files: dict[str, FileFacts]
    facts: dict[str, object]
    digest: str  # of files and facts together


@contextmanager
def write_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a fresh folder that becomes `target`, synced to the disk, when the block ends well.

    After an error nothing is left of it. Raises CheckpointError if the target exists and may not
    be replaced, or if the disk is full.
    """
    _require_absent(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_name(target)
    try:
        unfinished.mkdir()
        yield unfinished
        move_folder(unfinished, target, replace=replace)
    except BaseException as error:
        written = folder_size(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)
        _raise_if_disk_full(error, target, written)
        raise


def move_folder(source: Path, target: Path, *, replace: bool = False) -> None:
    """Sync a finished folder to the disk and rename it; both must be on one file system.

    A target that is replaced stands aside until the new one has its name.
    """
    sync_folder(source)
    _require_absent(target, replace=replace)
    aside = aside_name(target) if os.path.lexists(target) else None
    if aside is not None:
        target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        if aside is not None:
            aside.rename(target)
        raise
    _sync(target.parent)
    if aside is not None:
        remove_tree(aside)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all; its mode follows the umask."""
    unfinished = unfinished_name(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        _raise_if_disk_full(error, path, len(text.encode()))
        raise


def write_manifest(folder: Path, **facts: object) -> None:
    """Write `MANIFEST.json`: size and sha256 of every file in the folder, and the given facts."""
    files = {name: _file_facts(folder / name) for name in _names(folder) if name != MANIFEST}
    # Through JSON and back, so that the digest is of what a reader will find.
    content = json.loads(json.dumps({"files": files, "facts": facts}))
    manifest = {**content, "digest": digest_json(content)}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def verify_manifest(folder: Path, *, digests: bool = True) -> dict[str, object]:
    """Return the facts of a folder's manifest once its files are found to match it.

    Without `digests` only presence and sizes are checked, and no file is read but the manifest.
    Raises CheckpointError naming the first file that is missing or damaged.
    """
    damage = find_damage(folder, digests=digests)
    if damage is not None:
        msg = f"{folder} is damaged ({damage}); delete it or take another one"
        raise CheckpointError(msg)
    return _read_manifest(folder)["facts"]


def file_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file by its name, as the folder's manifest says."""
    return {name: facts["sha256"] for name, facts in _read_manifest(folder)["files"].items()}


def find_damage(
    folder: Path, *, digests: bool = True, cache: DigestCache | None = None
) -> str | None:
    """Return what is wrong with a folder, naming the file; None if it matches its manifest.

    Files whose digest the cache knows are not read again.
    """
    try:
        manifest = _read_manifest(folder)
        damages = (
            _file_damage(folder, name, expected, digests=digests, cache=cache)
            for name, expected in manifest["files"].items()
        )
        return next((damage for damage in damages if damage is not None), None)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except ValueError:
        return f"{MANIFEST} does not match its digest"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def remove_folder(folder: Path) -> None:
    """Delete a folder, its manifest first: what a killed process leaves never looks complete."""
    (folder / MANIFEST).unlink(missing_ok=True)
    _sync(folder)
    shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Bring every file and folder below this one, and itself, safely to the disk."""
    try:
        for place, _, names in os.walk(folder, topdown=False):
            for path in (*(Path(place, name) for name in names), Path(place)):
                if not path.is_symlink():
                    _sync(path)
    except OSError as error:  # a disk may find out only now that it is full
        _raise_if_disk_full(error, folder, folder_size(folder))
        raise


def _raise_if_disk_full(error: BaseException, target: Path, written: int) -> None:
    reason = full_disk_reason(error)
    if reason is not None:
        raise full_disk_error(target, written, reason) from error


def _require_absent(target: Path, *, replace: bool) -> None:
    if not replace and os.path.lexists(target):
        msg = f"{target} exists already; delete it or choose another folder"
        raise CheckpointError(msg)


def _names(folder: Path) -> list[str]:
    """Return the relative names of all files below a folder, sorted."""
    return sorted(
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
    )


def _file_facts(file: Path) -> FileFacts:
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}


def _file_damage(
    folder: Path, name: str, expected: FileFacts, *, digests: bool, cache: DigestCache | None
) -> str | None:
    file = folder / name
    if not file.exists():
        return f"{name} is missing"
    size = file.stat().st_size
    if size != expected["size"]:
        return f"{name} has {size} bytes, expected {expected['size']}"
    if digests and digest_file(file, cache) != expected["sha256"][:LENGTH]:
        return f"{name} does not match its digest"
    return None


def _read_manifest(folder: Path) -> Manifest:
    """Return the manifest; raises ValueError if it does not match its own digest."""
    manifest: object = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.keys() != {"files", "facts", "digest"}:
        raise ValueError
    content = {"files": manifest["files"], "facts": manifest["facts"]}
    if manifest["digest"] != digest_json(content):
        raise ValueError
    return cast("Manifest", manifest)


def _sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
