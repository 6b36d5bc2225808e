"""Folders: there as a whole, or not at all."""

import errno
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ontogeny.errors import CheckpointError
from ontogeny.folders import (
    MANIFEST,
    find_damage,
    move_folder,
    remove_folder,
    verify_manifest,
    write_folder,
    write_manifest,
    write_text,
)
from ontogeny.leftovers import aside_name, sweep_stale, unfinished_name

MEGABYTE = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond four megabytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MEGABYTE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(folder: Path, content: str = "text") -> Path:
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(content)
    (folder / "inner" / "b.bin").write_bytes(bytes(range(256)) * 10)
    return folder


def write(target: Path, work: Callable[[Path], object], *, replace: bool = False) -> None:
    with write_folder(target, replace=replace) as folder:
        work(folder)


def fail(error: BaseException) -> None:
    raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def left_by(process: int, path: Path, host: str | None = None) -> Path:
    """Return the unfinished name as another process would have chosen it."""
    mark = f"-{host or socket.gethostname()}-{process}-"
    name = re.sub(rf"-{re.escape(socket.gethostname())}-{os.getpid()}-", mark, path.name)
    assert name != path.name
    return path.with_name(name)


def test_a_folder_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    with write_folder(target) as folder:
        fill(folder)
        assert folder.parent == target.parent
        assert not target.exists()
    assert names(tmp_path / "new") == ["target"]
    assert (target / "a.txt").read_text() == "text"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_nothing_is_left_after_an_error(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / "target", lambda folder: fail(error) if fill(folder) else None)
    assert names(tmp_path) == []


def test_an_existing_target_is_not_touched(tmp_path: Path) -> None:
    fill(tmp_path / "target", "old")
    with pytest.raises(CheckpointError, match="target exists already; delete it"):
        write(tmp_path / "target", lambda _: pytest.fail("the work must not begin"))
    assert (tmp_path / "target" / "a.txt").read_text() == "old"


def test_a_target_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        write(tmp_path / "target", lambda _: fill(tmp_path / "target", "fast"))
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text() == "fast"


def test_replace_leaves_only_the_new_content(tmp_path: Path) -> None:
    fill(tmp_path / "target", "old")
    with write_folder(tmp_path / "target", replace=True) as folder:
        (folder / "c.txt").write_text("new")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["c.txt"]


def test_a_failed_replacement_leaves_the_old_content(tmp_path: Path) -> None:
    fill(tmp_path / "target", "old")
    with pytest.raises(ValueError, match="no"):
        write(tmp_path / "target", lambda _: fail(ValueError("no")), replace=True)
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text() == "old"


def test_a_rename_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    fill(tmp_path / "target", "old")
    with pytest.raises(FileNotFoundError):
        move_folder(tmp_path / "none", tmp_path / "target", replace=True)
    assert names(tmp_path) == ["target"]


def test_every_file_and_folder_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "target", list[tuple[str, bool]]()

    def record(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), target.exists()))

    monkeypatch.setattr(os, "fsync", record)
    with write_folder(target) as folder:
        fill(folder)
    inside = {str(path) for path in (folder, folder / "inner", folder / "a.txt")}
    assert {*inside, str(folder / "inner" / "b.bin")} == {path for path, there in synced[:-1]}
    assert not any(there for _, there in synced[:-1])
    assert synced[-1] == (str(tmp_path), True)


def test_a_full_disk_is_named_with_what_is_needed_and_what_is_free(small_disk: Path) -> None:
    def fill_up(folder: Path) -> None:
        for number in range(100):
            (folder / str(number)).write_bytes(bytes(MEGABYTE // 10))

    with pytest.raises(CheckpointError) as caught:
        write(small_disk / "target", fill_up)
    expected = rf"no space left on {small_disk} for {small_disk}/target \(No space left on device\)"
    assert re.match(rf"{expected}: needed about 4\.\d MB or more, 4\.2 MB free;", str(caught.value))
    assert "\n" not in str(caught.value)
    assert names(small_disk) == []


def test_a_full_disk_leaves_the_old_text(small_disk: Path) -> None:
    write_text(small_disk / "file", "old")
    with pytest.raises(CheckpointError, match=f"no space left on {small_disk} for"):
        write_text(small_disk / "file", "n" * 5 * MEGABYTE)
    assert names(small_disk) == ["file"]
    assert (small_disk / "file").read_text() == "old"


@pytest.mark.usefixtures("small_files")
def test_a_file_size_limit_is_named_as_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(File too large\)"):
        write(tmp_path / "target", lambda to: (to / "file").write_bytes(bytes(5 * MEGABYTE)))
    assert names(tmp_path) == []


def test_a_full_disk_is_recognised_behind_a_library_error(tmp_path: Path) -> None:
    hiding, quoting = RuntimeError("unexpected pos"), RuntimeError("I/O: No space left on device")
    hiding.__context__ = OSError(errno.EDQUOT, "quota")
    with pytest.raises(CheckpointError, match=r"no space left on .*\(Disk quota exceeded\)"):
        write(tmp_path / "target", lambda _: fail(hiding))
    with pytest.raises(CheckpointError, match=r"no space left on .*\(No space left on device\)"):
        write(tmp_path / "target", lambda _: fail(quoting))


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        write(tmp_path / "target", lambda _: fail(PermissionError(errno.EACCES, "no")))


def test_the_manifest_gives_back_its_facts(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path), step=3, versions={"torch": "2"}, loss=0.1, names=("a", "b"))
    facts = {"step": 3, "versions": {"torch": "2"}, "loss": 0.1, "names": ["a", "b"]}
    assert verify_manifest(tmp_path) == facts


def test_the_manifest_agrees_with_sha256sum(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path, "abc"))
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert known in (tmp_path / MANIFEST).read_text()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda f: flip(f / "inner/b.bin", 99), r"inner/b.bin does not match its digest"),
    "truncated": (
        lambda f: os.truncate(f / "inner/b.bin", 7),
        r"inner/b.bin has 7 bytes, expected 2560",
    ),
    "missing": (lambda f: (f / "a.txt").unlink(), r"a.txt is missing"),
    "manifest": (lambda f: (f / MANIFEST).unlink(), r"MANIFEST.json is missing"),
    "torn": (lambda f: os.truncate(f / MANIFEST, 50), r"MANIFEST.json does not match its digest"),
    "empty": (lambda f: os.truncate(f / MANIFEST, 0), r"MANIFEST.json does not match its digest"),
}


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    write_manifest(fill(tmp_path))
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{tmp_path} is damaged \({message}\)"):
        verify_manifest(tmp_path)


def test_a_flip_of_any_byte_of_the_manifest_is_found(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path), step=12)
    size = (tmp_path / MANIFEST).stat().st_size
    found = []
    for position in range(size):
        flip(tmp_path / MANIFEST, position)
        found.append(find_damage(tmp_path, digests=False) is not None)
        flip(tmp_path / MANIFEST, position)
    assert all(found)
    assert find_damage(tmp_path) is None


def test_the_cheap_check_sees_sizes_and_not_digests(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path))
    flip(tmp_path / "a.txt", 0)
    verify_manifest(tmp_path, digests=False)
    os.truncate(tmp_path / "a.txt", 1)
    assert find_damage(tmp_path, digests=False) == "a.txt has 1 bytes, expected 4"


def test_a_new_manifest_replaces_the_old_one(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path), step=1)
    (tmp_path / "a.txt").write_text("other")
    write_manifest(tmp_path, step=2)
    assert verify_manifest(tmp_path) == {"step": 2}


def test_a_removed_folder_loses_its_manifest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(fill(tmp_path / "target"))

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "target")
    assert find_damage(tmp_path / "target") == "MANIFEST.json is missing"
    remove_folder(tmp_path / "target")
    assert names(tmp_path) == []


def test_leavings_of_dead_processes_are_swept(tmp_path: Path) -> None:
    process = dead_process()
    fill(left_by(process, unfinished_name(tmp_path / "folder")))
    left_by(process, unfinished_name(tmp_path / "file")).write_text("torn")
    fill(tmp_path / "folder")
    sweep_stale(tmp_path)
    assert names(tmp_path) == ["folder"]


def test_work_of_running_processes_is_not_swept(tmp_path: Path) -> None:
    own = fill(unfinished_name(tmp_path / "folder"))
    parents = fill(left_by(os.getppid(), unfinished_name(tmp_path / "folder")))
    sweep_stale(tmp_path)
    assert names(tmp_path) == sorted([own.name, parents.name])


def test_leavings_of_a_forerunner_with_our_process_number_are_swept(tmp_path: Path) -> None:
    own = unfinished_name(tmp_path / "folder")
    fill(own.with_name(re.sub(r"-[0-9a-f]{8}-([0-9a-f]{8})$", r"-00000000-\1", own.name)))
    sweep_stale(tmp_path)
    assert names(tmp_path) == []


def test_leavings_of_another_host_are_swept_after_a_day(tmp_path: Path) -> None:
    left = fill(left_by(1, unfinished_name(tmp_path / "folder"), host="other-host"))
    sweep_stale(tmp_path)
    assert names(tmp_path) == [left.name]
    for path in (*left.rglob("*"), left):
        os.utime(path, (0, 0))
    sweep_stale(tmp_path)
    assert names(tmp_path) == []


def test_a_replacement_that_was_cut_off_between_its_renames_is_undone(tmp_path: Path) -> None:
    process = dead_process()
    fill(left_by(process, aside_name(tmp_path / "target")), "old")
    fill(left_by(process, unfinished_name(tmp_path / "target")), "new")
    sweep_stale(tmp_path)
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text() == "old"


def test_an_old_content_that_was_replaced_is_swept(tmp_path: Path) -> None:
    fill(left_by(dead_process(), aside_name(tmp_path / "target")), "old")
    fill(tmp_path / "target", "new")
    sweep_stale(tmp_path)
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target" / "a.txt").read_text() == "new"


def test_sweeping_a_folder_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    sweep_stale(tmp_path / "none")


def test_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "file", "new é")
    assert (tmp_path / "file").read_bytes() == "new é".encode()
    assert names(tmp_path) == ["file"]


def test_text_gets_its_mode_from_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
