"""Bytes into lines of text, with the place of every byte that is no text."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from ontogeny.data.rows import BadRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str | BadRow]]:
    """Yield (number, line) with line ends kept and a byte-order mark taken off; numbers from 1."""
    offset = 0
    for number, line in enumerate(lines, 1):
        start = len(BOM_UTF8) if number == 1 and line.startswith(BOM_UTF8) else 0
        yield number, _decoded_line(line[start:], offset + start)
        offset += len(line)


def _decoded_line(line: bytes, offset: int) -> str | BadRow:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        place = f"byte 0x{line[error.start]:02x} at byte offset {offset + error.start}"
        return BadRow(f"invalid UTF-8: {place}", line.decode(errors="replace"))
    if "\0" in text:
        return BadRow(f"NUL byte at byte offset {offset + line.index(0)}", text)
    return text
