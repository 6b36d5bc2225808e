"""Digests: the same content gives the same name, anything else another one."""

import hashlib
import os
from pathlib import Path

import pytest

from ontogeny.digest import DigestCache, digest_file, digest_files, digest_folder, digest_json

LONG_AGO = 1_600_000_000  # seconds


def old_file(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_json_digest_is_the_start_of_the_sha256_of_sorted_compact_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,0.1,null,true],"b":"\\u00e9"}').hexdigest()[:32]
    assert digest_json({"b": "é", "a": [1, 0.1, None, True]}) == expected


def test_floats_that_differ_in_the_last_bit_have_different_digests() -> None:
    assert digest_json(0.1 + 0.2) != digest_json(0.3)


def test_a_path_has_no_json_digest() -> None:
    with pytest.raises(TypeError, match="PosixPath"):
        digest_json({"path": Path("/data")})


def test_file_digest_agrees_with_hashlib(tmp_path: Path) -> None:
    file = old_file(tmp_path / "a", "abc")
    assert digest_file(file) == hashlib.sha256(b"abc").hexdigest()[:32]


def test_digest_of_several_files_depends_on_their_order_and_not_on_their_names(
    tmp_path: Path,
) -> None:
    one, two = old_file(tmp_path / "one", "1"), old_file(tmp_path / "two", "2")
    digest = digest_files([one, two])
    assert digest != digest_files([two, one])
    assert digest == digest_files([one.rename(tmp_path / "other"), two])


def test_folder_digest_stays_when_the_folder_moves(tmp_path: Path) -> None:
    old_file(tmp_path / "here" / "a" / "b.txt", "text")
    digest = digest_folder(tmp_path / "here")
    assert digest_folder((tmp_path / "here").rename(tmp_path / "there")) == digest


@pytest.mark.parametrize("change", ["rename", "content", "add"])
def test_folder_digest_changes_with(change: str, tmp_path: Path) -> None:
    file = old_file(tmp_path / "a" / "b.txt", "text")
    before = digest_folder(tmp_path)
    if change == "rename":
        file.rename(file.with_name("c.txt"))
    else:
        old_file(file if change == "content" else file.with_name("c.txt"), "other")
    assert digest_folder(tmp_path) != before


def test_folder_digest_passes_over_ignored_files_and_folders(tmp_path: Path) -> None:
    old_file(tmp_path / "weights", "w")
    before = digest_folder(tmp_path)
    old_file(tmp_path / "README.md", "r")
    old_file(tmp_path / "logs" / "deep" / "log", "l")
    assert digest_folder(tmp_path, ignore={"README.md", "logs"}) == before
    assert digest_folder(tmp_path, ignore={"README.md", "deep"}) != before


def test_folder_digest_sees_what_a_linked_folder_holds(tmp_path: Path) -> None:
    target = old_file(tmp_path / "elsewhere" / "file", "1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(target.parent)
    before = digest_folder(tmp_path / "folder")
    old_file(target, "2")
    assert digest_folder(tmp_path / "folder") != before


def test_a_remembered_file_is_not_read_again(tmp_path: Path) -> None:
    file = old_file(tmp_path / "data", "abc")
    digest = digest_file(file, DigestCache(tmp_path / "cache"))
    old_file(file, "xyz")  # same size, same time: not to be told apart without reading
    assert digest_file(file, DigestCache(tmp_path / "cache")) == digest


def test_a_file_of_another_size_or_time_is_read_again(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    file = old_file(tmp_path / "data", "abc")
    digest_file(file, cache)
    old_file(file, "abcd")
    assert digest_file(file, cache) == digest_file(file)
    old_file(file, "efgh")
    os.utime(file, (LONG_AGO + 1, LONG_AGO + 1))
    assert digest_file(file, cache) == digest_file(file)


def test_a_file_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    file = tmp_path / "data"
    file.write_text("abc")
    status = file.stat()
    digest_file(file, cache)
    file.write_text("xyz")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # within one tick of the clock
    assert digest_file(file, cache) == digest_file(file)


def test_lines_from_two_writers_are_all_remembered(tmp_path: Path) -> None:
    first, second = DigestCache(tmp_path / "cache"), DigestCache(tmp_path / "cache")
    files = [old_file(tmp_path / name, name) for name in "abcd"]
    digests = [digest_file(file, (first, second)[n % 2]) for n, file in enumerate(files)]
    for file in files:
        old_file(file, "-")
    assert [digest_file(file, DigestCache(tmp_path / "cache")) for file in files] == digests


@pytest.mark.parametrize("position", range(0, 200, 7))
def test_a_cache_with_a_damaged_byte_never_gives_a_wrong_digest(
    position: int, tmp_path: Path
) -> None:
    file, cache = old_file(tmp_path / "data", "abc"), tmp_path / "cache"
    digest = digest_file(file, DigestCache(cache))
    content = bytearray(cache.read_bytes())
    content[position % len(content)] ^= 1
    cache.write_bytes(content)
    assert digest_file(file, DigestCache(cache)) == digest


def test_a_torn_line_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = (old_file(tmp_path / name, name) for name in ("first", "second"))
    digest_file(first, DigestCache(cache))
    cache.write_bytes(cache.read_bytes()[:-20])
    digest = digest_file(second, DigestCache(cache))
    old_file(second, "dnoces")
    assert digest_file(second, DigestCache(cache)) == digest


@pytest.mark.parametrize("content", [b"\x00\xff\xfe" * 100, b"[1, 2] 00000000\n", b"\n\n{"])
def test_a_cache_of_rubbish_is_rebuilt(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(content)
    file = old_file(tmp_path / "data", "abc")
    digest = digest_file(file, DigestCache(tmp_path / "cache"))
    old_file(file, "xyz")
    assert digest_file(file, DigestCache(tmp_path / "cache")) == digest


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    file = old_file(tmp_path / "data", "abc")
    cache = DigestCache(file / "cache")  # below a file, where no folder can be
    assert digest_file(file, cache) == digest_file(file)
