"""Which suffix is which format, and one file into rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.data import csv_files, json_files, tables, text_units
from ontogeny.data.compression import COMPRESSIONS, byte_lines
from ontogeny.data.decoding import decoded
from ontogeny.data.rows import BadRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ontogeny.data.rows import Parsed

TEXT_UNITS = {
    "document": text_units.documents,
    "paragraph": text_units.paragraphs,
    "line": text_units.single_lines,
    "block": text_units.blocks,
}
TEXT = (".txt", ".md")
JSON_LINES = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINED = (*TEXT, *JSON_LINES, ".json", *DELIMITERS)  # these may be compressed
KNOWN = f"{' '.join(LINED)} (each also as {' or '.join(COMPRESSIONS)}), {' '.join(tables.READERS)}"


def suffix(path: Path) -> str:
    """Return the suffix that tells the format, such as ".jsonl" of "a.JSONL.gz"."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return plain.suffix.lower()


def is_known(path: Path) -> bool:
    """Return whether the name says a format that can be read."""
    return suffix(path) in LINED or path.suffix.lower() in tables.READERS


def parse(path: Path, text_unit: str) -> Iterator[Parsed]:
    """Yield (line, row or BadRow), lines and rows of tables numbered from 1.

    Raises DataError where the file as a whole cannot be read.
    """
    kind = suffix(path)
    if kind in tables.READERS:
        return tables.READERS[kind](path)
    lines = byte_lines(path)
    if kind in TEXT:
        return _text_rows(lines, text_unit)
    if kind in DELIMITERS:
        return csv_files.csv_rows(path, lines, DELIMITERS[kind])
    if kind in JSON_LINES:
        return json_files.json_lines(lines)
    return json_files.json_list_or_lines(path, lines)


def _text_rows(lines: Iterable[bytes], text_unit: str) -> Iterator[Parsed]:
    for number, text in TEXT_UNITS[text_unit](decoded(lines)):
        yield number, text if isinstance(text, BadRow) else {"text": text}
