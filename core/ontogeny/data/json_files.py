"""JSON into rows: one object per line, or a list of objects."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from itertools import chain
from typing import TYPE_CHECKING

from ontogeny.data.decoding import decoded
from ontogeny.data.rows import BadRow
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ontogeny.data.rows import Parsed

SPACE = re.compile(r"[ \t\r\n]*")
SHOWN = 40  # characters of a value in a message


def json_lines(lines: Iterable[bytes]) -> Iterator[Parsed]:
    """Yield one row per line; blank lines only separate."""
    for number, line in decoded(lines):
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip():
            yield number, _parsed_line(line)


def json_list_or_lines(path: Path, lines: Iterator[bytes]) -> Iterator[Parsed]:
    """Yield the objects of a list, or one row per line where the file is no list."""
    head: list[bytes] = []
    for line in lines:
        head.append(line.removeprefix(b"" if head else BOM_UTF8))
        if head[-1].strip():
            break
    is_list = bool(head) and head[-1].lstrip().startswith(b"[")
    lines = chain(head, lines)
    yield from _json_list(path, lines) if is_list else json_lines(lines)


def _json_list(path: Path, lines: Iterable[bytes]) -> Iterator[Parsed]:
    """Yield the objects of a list; broken syntax is an error, since nothing behind it is certain.

    `path` is only for messages.
    """
    text = "".join(_all_good(path, lines))
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    number, position = 1, 0
    following = _skip_space(text, text.index("[") + 1)
    while not text.startswith("]", following):
        number += text.count("\n", position, following)
        position = following
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken(path, getattr(error, "lineno", number), _reason(error)) from error
        yield number, _object_or_bad(value)
        following = _skip_space(text, end)
        if text.startswith(",", following):
            following = _skip_space(text, following + 1)
        elif not text.startswith("]", following):
            raise _broken(path, text.count("\n", 0, following) + 1, "Expecting ',' or ']'")
    if text[following + 1 :].strip():
        raise _broken(path, text.count("\n", 0, following) + 1, "more text behind the list")


def _all_good(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in decoded(lines):
        if isinstance(line, BadRow):
            raise _broken(path, number, line.reason)
        yield line


def _broken(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path}:{number}: not a list in JSON: {reason}; mend the file")


def _skip_space(text: str, position: int) -> int:
    space = SPACE.match(text, position)
    return space.end() if space else position


def _parsed_line(line: str) -> dict[str, object] | BadRow:
    try:
        return _object_or_bad(json.loads(line, object_pairs_hook=_unique))
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON: {_reason(error)}", line)


def _object_or_bad(value: object) -> dict[str, object] | BadRow:
    if isinstance(value, dict):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return BadRow(f"not a JSON object but {text[:SHOWN]}{'…' * (len(text) > SHOWN)}", text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key {twice!r} stands twice in one object"
        raise ValueError(msg)
    return row


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)
