from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ontogeny.data.reading import Record, read_rows
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = [("text",)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_a_record_knows_its_place(file: Path) -> None:
    file.write_text('\n{"text": "a", "id": 7}\n')
    (record,) = read_rows(str(file), columns={}, required=TEXT)
    assert record == Record({"text": "a", "id": 7}, str(file), 2)
    assert record.where == f"{file}:2"


def test_a_bad_row_is_an_error_with_its_place_and_two_remedies(file: Path) -> None:
    file.write_text('{"text": "a"}\n{"text": 5}\n')
    records = read_rows(str(file), columns={}, required=TEXT)
    assert next(records).line == 1
    with pytest.raises(DataError) as caught:
        next(records)
    assert str(caught.value) == (
        f"{file}:2: text is 5; expected text; mend the row or set data.on_error=skip"
    )


def test_the_byte_offset_counts_from_the_start_of_the_file(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xff"}\n')
    records = read_rows(str(file), columns={}, required=TEXT)
    assert next(records).line == 1
    with pytest.raises(DataError, match=rf"^{file}:2: invalid UTF-8: .* byte offset 27; mend"):
        next(records)


def test_bad_rows_can_be_skipped_and_are_reported(file: Path) -> None:
    file.write_bytes(b'{"text": "a"}\n{"text": \n{"text": " "}\n{"txt": "b"}\n{"text": "c"}\n')
    seen: list[tuple[str, str]] = []
    records = read_rows(
        str(file),
        columns={},
        required=TEXT,
        on_error="skip",
        rejected=lambda where, reason: seen.append((where, reason)),
    )
    assert [(record.line, record.row["text"]) for record in records] == [(1, "a"), (5, "c")]
    assert [where for where, _ in seen] == [f"{file}:{line}" for line in (2, 3, 4)]
    assert seen[1][1] == "empty text"


def test_bad_rows_can_be_skipped_without_a_report(file: Path) -> None:
    file.write_bytes(b'x\n{"text": "a"}\n')
    assert len(list(read_rows(str(file), columns={}, required=TEXT, on_error="skip"))) == 1


def test_a_source_of_bad_rows_only_is_an_error_that_tells_the_first(file: Path) -> None:
    file.write_bytes(b'{"text": 1}\n{"text": 2}\n')
    with pytest.raises(DataError) as caught:
        list(read_rows(str(file), columns={}, required=TEXT, on_error="skip"))
    assert str(caught.value) == (
        f"{file} has no rows but 2 bad ones, first {file}:1: text is 1; expected text"
    )


@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow", "a.jsonl.gz"]
)
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"^{tmp_path / name} has no rows$"):
        list(read_rows(str(tmp_path / name), columns={}, required=TEXT))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text\n"), ("a.json", "[]")])
def test_a_file_may_hold_no_rows_without_being_empty(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="has no rows"):
        list(read_rows(str(tmp_path / name), columns={}, required=TEXT))


def test_an_empty_file_among_others_is_an_error_or_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(DataError, match=r"a\.txt: has no rows; remove the file or set data\.on_e"):
        list(read_rows(str(tmp_path), columns={}, required=TEXT))
    seen: list[tuple[str, str]] = []
    records = read_rows(
        str(tmp_path),
        columns={},
        required=TEXT,
        on_error="skip",
        rejected=lambda where, reason: seen.append((where, reason)),
    )
    assert [record.row for record in records] == [{"text": "b"}]
    assert seen == [(str(tmp_path / "a.txt"), "has no rows")]


def test_a_missing_file_raises_before_the_first_row_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl does not exist"):
        read_rows(str(tmp_path / "missing.jsonl"), columns={}, required=TEXT)


@pytest.mark.parametrize(
    ("name", "line", "rows"),
    [
        ("a.jsonl", json.dumps({"text": "x" * 10_000}) + "\n", 800),
        ("a.txt", "x" * 9_999 + "\n", 2_000),  # one paragraph, cut at 4,000 characters
    ],
)
def test_a_large_file_is_never_in_memory_as_a_whole(
    tmp_path: Path, name: str, line: str, rows: int
) -> None:
    (tmp_path / name).write_text(line * 800)  # 8 MB
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(str(tmp_path / name), columns={}, required=TEXT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == pytest.approx(rows, rel=0.1)
    assert peak < 1_000_000


def test_importing_the_reader_imports_nothing_heavy() -> None:
    heavy = "{'datasets', 'pyarrow', 'torch', 'huggingface_hub', 'zstandard', 'pandas'}"
    code = f"import sys, ontogeny.data.reading; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "set()\n"
