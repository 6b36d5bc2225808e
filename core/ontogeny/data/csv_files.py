"""CSV and TSV into rows; every value is text, since the format has no types."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from ontogeny.data.decoding import decoded
from ontogeny.data.rows import BadRow
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ontogeny.data.rows import Parsed

LONGEST_FIELD = 2**31 - 1  # characters: the most that fits everywhere


def csv_rows(path: Path, lines: Iterable[bytes], delimiter: str) -> Iterator[Parsed]:
    """Yield (line that the row starts on, row) below a header; `path` is only for messages."""
    records = _records(path, lines, delimiter)
    header = next(records, None)
    if header is None:
        return
    columns = _header(path, *header)
    for number, fields in records:
        if isinstance(fields, BadRow):
            yield number, fields
        elif len(fields) != len(columns):
            yield number, BadRow(f"the row has {len(fields)} fields, the header {len(columns)}")
        else:
            yield number, dict(zip(columns, fields, strict=True))


def _header(path: Path, number: int, fields: list[str] | BadRow) -> list[str]:
    if isinstance(fields, BadRow):
        msg = f"{path}:{number}: the header cannot be read: {fields.reason}; mend the file"
        raise DataError(msg)
    twice = [name for name in fields if fields.count(name) > 1]
    if twice:
        msg = f"{path}:{number}: the header has two columns {twice[0]!r}; rename one"
        raise DataError(msg)
    return fields


def _records(
    path: Path, lines: Iterable[bytes], delimiter: str
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield the fields of every record that is not blank."""
    feed = _Feed(lines)
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process; 131,072 is short for a document
    reader = csv.reader(feed.lines(), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if feed.has_ended:
                msg = f"{path}:{start}: a quote opens in this row and never closes; mend the file"
                raise DataError(msg) from error
            yield start, BadRow(f"not CSV: {error}")
            continue
        if fields is None:
            return
        if feed.bad:
            yield start, feed.bad
            feed.bad = None
        elif fields:
            yield start, fields


class _Feed:
    """Lines for the CSV reader, which wants text, and the first bad one since the last record."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.bad: BadRow | None = None
        self.has_ended = False
        self._lines = lines

    def lines(self) -> Iterator[str]:
        for _, line in decoded(self._lines):
            if isinstance(line, BadRow):
                self.bad = self.bad or line
            yield line.text if isinstance(line, BadRow) else line
        self.has_ended = True
