"""Rows out of what the user names, every one validated and traced to its file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ontogeny.data.files import resolve_files
from ontogeny.data.formats import parse
from ontogeny.data.hub import hub_rows, is_hub_name
from ontogeny.data.rows import BadRow, validated
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ontogeny.data.rows import Parsed
    from ontogeny.objective import Row

__all__ = ["Record", "read_rows", "resolve_files"]


@dataclass(frozen=True, slots=True)
class Record:
    """A row and where it stands."""

    row: Row  # under canonical column names
    file: str
    line: int  # where the row starts, from 1; in tables the number of the row

    @property
    def where(self) -> str:
        """Return "file:line"."""
        return f"{self.file}:{self.line}"


def read_rows(
    path: str,
    *,
    columns: Mapping[str, str],
    required: Sequence[Sequence[str]],
    text_unit: str = "block",
    on_error: str = "error",
    rejected: Callable[[str, str], None] | None = None,
) -> Iterator[Record]:
    """Return the rows of a file, a glob, a folder, a package's file or a Hub dataset, in order.

    `columns` maps canonical names to the user's; `required` lists alternatives, each of canonical
    columns that a row must have together. A bad row raises DataError, or with `on_error="skip"`
    goes to `rejected(where, reason)`. Files that cannot be found raise at once, files that are
    cut off, and sources without a row, when they are reached. Memory: a row, except that a list
    in a `.json` is read whole.
    """
    bad_rows = _BadRows(on_error, rejected)
    return _records(path, _sources(path, text_unit), columns, required, bad_rows)


def _sources(path: str, text_unit: str) -> list[tuple[str, Iterator[Parsed]]]:
    if is_hub_name(path):
        return [(path, hub_rows(path))]
    return [(str(file), parse(file, text_unit)) for file in resolve_files(path)]


def _records(
    path: str,
    sources: Sequence[tuple[str, Iterator[Parsed]]],
    columns: Mapping[str, str],
    required: Sequence[Sequence[str]],
    bad_rows: _BadRows,
) -> Iterator[Record]:
    is_empty = True
    for file, parsed in sources:
        line = 0
        for line, found in parsed:  # line stays 0 where there is none
            row = found if isinstance(found, BadRow) else validated(found, columns, required)
            if isinstance(row, BadRow):
                bad_rows.add(f"{file}:{line}", row.reason)
                continue
            is_empty = False
            yield Record(row, file, line)
        if not line and len(sources) > 1:
            bad_rows.add(file, "has no rows", remedy="remove the file")
    if is_empty:
        msg = f"{path} has no rows{bad_rows.summary()}"
        raise DataError(msg)


class _BadRows:
    """What becomes of bad rows: the first is an error, or all are reported and counted."""

    def __init__(self, on_error: str, rejected: Callable[[str, str], None] | None) -> None:
        self._on_error = on_error
        self._rejected = rejected
        self._count = 0
        self._first = ""

    def add(self, where: str, reason: str, remedy: str = "mend the row") -> None:
        if self._on_error != "skip":
            msg = f"{where}: {reason}; {remedy} or set data.on_error=skip"
            raise DataError(msg)
        self._count += 1
        self._first = self._first or f"{where}: {reason}"
        if self._rejected:
            self._rejected(where, reason)

    def summary(self) -> str:
        return f" but {self._count} bad ones, first {self._first}" if self._count else ""
