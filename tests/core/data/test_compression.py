from __future__ import annotations

import gzip
import json
import sys
from typing import TYPE_CHECKING

import pytest
import zstandard

from ontogeny.data.reading import Record, read_rows
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"text": "first\nrow", "id": 1}, {"text": "zweite Zeile: ü", "id": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path) -> list[Record]:
    return list(read_rows(str(path), columns={}, required=[("text",)]))


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_rows(path: Path, lines: list[int]) -> None:
    records = read(path)
    assert [record.row for record in records] == ROWS
    assert [record.where for record in records] == [f"{path}:{line}" for line in lines]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_json_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}.gz"
    path.write_bytes(gzip.compress(LINES))
    check_rows(path, [1, 2])
    path = tmp_path / f"a{suffix}.zst"
    path.write_bytes(zstandard.compress(LINES))
    check_rows(path, [1, 2])


def test_text_and_csv_may_be_compressed_too(tmp_path: Path) -> None:
    for name, content in (("a.txt", "ä"), ("b.csv", "text\nä\n"), ("c.tsv", "text\nä\n")):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert [record.row for record in read(tmp_path)] == [{"text": "ä"}] * 3


def test_zstandard_frames_may_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    frames = [zstandard.compress(line) for line in LINES.splitlines(keepends=True)]
    path.write_bytes(zstandard.compress(b"").join(frames))
    check_rows(path, [1, 2])


def test_a_large_compressed_file_is_read_to_its_end(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (n * n) for n in range(100_000))
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(lines))
    assert [record.row["text"] for record in read(path)] == [str(n * n) for n in range(100_000)]


def test_zstandard_is_asked_for_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(LINES))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert error_of(path).endswith("pip install zstandard")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "bit flipped", "not compressed"])
def test_damaged_compression_is_an_error_that_names_the_file(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    whole = gzip.compress(LINES * 99) if suffix == ".gz" else checked_zstd(LINES * 99)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    contents = {"cut off": whole[:-1], "bit flipped": bytes(flipped), "not compressed": LINES}
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(contents[damage])
    with pytest.raises(DataError, match="cannot be read") as caught:
        list(read_rows(str(path), columns={}, required=[], on_error="skip"))
    assert str(caught.value).startswith(f"{path}: cannot be read: ")


def checked_zstd(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(plain)
