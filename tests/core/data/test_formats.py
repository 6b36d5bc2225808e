from __future__ import annotations

import json
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

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


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_json_lines_give_one_row_per_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\n" + LINES)
    check_rows(path, [2, 3])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    content = {".csv": "text\r\nä\r\n", ".txt": "ä"}.get(suffix, '{"text": "ä"}\r\n')
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [record.row for record in read(path)] == [{"text": "ä"}]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_may_be_a_list_of_objects(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeff\n" + json.dumps(ROWS, indent=indent), encoding="utf-8")
    check_rows(path, [2, 2] if indent is None else [3, 7])


def test_a_broken_list_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n{"text": "a"},\n{"text": "b"}')
    assert error_of(path) == f"{path}:3: not a list in JSON: Expecting ',' or ']'; mend the file"
    path.write_text('[\n{"text": "a"},\n{"text": }]')
    assert f"{path}:3: not a list in JSON: Expecting value at column 10" in error_of(path)
    path.write_text('[\n{"text": "a"}]\n{"text": "b"}')
    assert "more text behind the list" in error_of(path)
    path.write_bytes(b'[\n{"text": "\xff"}]')
    assert f"{path}:2: not a list in JSON: invalid UTF-8: byte 0xff" in error_of(path)


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_csv_gives_text_and_the_line_that_a_row_starts_on(
    tmp_path: Path, suffix: str, delimiter: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text('text,id\n\n"one, ""two""\nthree",1\nfour,2\n'.replace(",", delimiter))
    records = read(path)
    text = 'one, "two"\nthree'.replace(",", delimiter)
    assert [record.row for record in records] == [
        {"text": text, "id": "1"},
        {"text": "four", "id": "2"},
    ]
    assert [record.line for record in records] == [3, 5]


def test_a_long_document_fits_into_a_csv_field(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000)
    assert read(path)[0].row == {"text": "x" * 200_000}


def test_bad_csv_records_are_bad_rows_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = b'text,id\n"a\nb",1\nc\n"d"e,2\n"f\n\xff\ng",3\nh,4,5\n"i",6\nj\0,7\nk,8\n'
    path.write_bytes(content)
    seen: list[str] = []
    records = read_rows(
        str(path),
        columns={},
        required=[("text",)],
        on_error="skip",
        rejected=lambda where, reason: seen.append(where.removeprefix(str(path)) + " " + reason),
    )
    assert [(record.line, record.row["text"]) for record in records] == [
        (2, "a\nb"),
        (10, "i"),
        (12, "k"),
    ]
    assert seen == [
        ":4 the row has 1 fields, the header 2",
        ":5 not CSV: ',' expected after '\"'",
        ":6 invalid UTF-8: byte 0xff at byte offset 28",
        ":9 the row has 3 fields, the header 2",
        ":11 NUL byte at byte offset 48",
    ]


def test_a_quote_that_never_closes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\na\n"b\nc\nd\n')
    assert error_of(path) == (
        f"{path}:3: a quote opens in this row and never closes; mend the file"
    )


def test_a_csv_header_must_be_readable_and_unambiguous(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,id,text\na,1,b\n")
    assert error_of(path) == f"{path}:1: the header has two columns 'text'; rename one"
    path.write_bytes(b"text,\xff\na,1\n")
    assert f"{path}:1: the header cannot be read: invalid UTF-8" in error_of(path)


def test_parquet_gives_typed_rows_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS * 300), path, row_group_size=7)
    records = read(path)
    assert [record.row for record in records] == ROWS * 300
    assert [record.line for record in records] == list(range(1, 601))


def test_arrow_may_be_a_file_or_a_stream(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    feather.write_feather(table, str(tmp_path / "a.feather"))
    feather.write_feather(table, str(tmp_path / "b.arrow"))
    with pa.ipc.new_stream(str(tmp_path / "c.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.feather", "b.arrow", "c.arrow"):
        check_rows(tmp_path / name, [1, 2])


def test_a_folder_saved_by_datasets_is_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert [record.row for record in read(tmp_path / "saved")] == ROWS


def test_messages_come_out_of_tables_as_lists(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"messages": turns}]), path)
    (record,) = read_rows(str(path), columns={}, required=[("messages",)])
    assert record.row == {"messages": turns}


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_a_table_cut_off_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    table = pa.Table.from_pylist(ROWS * 99)
    parquet.write_table(table, path) if suffix == ".parquet" else feather.write_feather(
        table, str(path)
    )
    path.write_bytes(path.read_bytes()[:-20])
    assert error_of(path).startswith(f"{path}: cannot be read: ")


def test_a_flipped_byte_in_a_page_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}: cannot be read: ")


def test_wrong_offsets_in_an_arrow_file_do_not_crash_python(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    table = pa.table({"text": ["a" * 5, "b" * 6, "c" * 7]})
    feather.write_feather(table, str(path), compression="uncompressed")
    offsets = np.array([0, 5, 11, 18], "<i4").tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    wrong = np.array([0, 5, 2**31 - 1, 18], "<i4").tobytes()
    path.write_bytes(content.replace(offsets, wrong))
    assert error_of(path).startswith(f"{path}: cannot be read: ")


def test_invalid_utf8_in_an_arrow_file_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    values = pa.array([b"good", b"b\xffd"], pa.binary()).view(pa.string())
    feather.write_feather(pa.table({"text": values}), str(path))
    assert error_of(path).startswith(f"{path}: cannot be read: ")


def test_invalid_utf8_in_parquet_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = pa.array([b"good", b"b\xffd", b"fine"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": values}), path)
    assert error_of(path).startswith(
        f"{path}:2: invalid UTF-8: byte 0xff at byte offset 1 of the value; mend the row"
    )


def test_a_folder_is_read_in_order_of_names_across_formats(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("2")
    (tmp_path / "a.jsonl").write_text('{"text": "1"}')
    parquet.write_table(pa.table({"text": ["3"]}), tmp_path / "c.parquet")
    assert [record.row["text"] for record in read(tmp_path)] == ["1", "2", "3"]


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    records = read_rows(str(path), columns={}, required=[])
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read: No such file"):
        next(records)
