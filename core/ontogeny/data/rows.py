"""What a good row is: the columns somebody asked for, of the right type, safe to tokenise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ontogeny.objective import Row

    Parsed = tuple[int, dict[str, object] | "BadRow"]  # line, and what stands there

CONVERSATIONS = frozenset({"prompt", "completion", "chosen", "rejected"})  # text or messages
LISTED_COLUMNS = 12  # as many names of columns fit into a message that is still read


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    reason: str
    text: str = ""  # what can be read of it


def validated(
    found: Mapping[str, object], columns: Mapping[str, str], required: Sequence[Sequence[str]]
) -> Row | BadRow:
    """Return a row under its canonical names, or why it is bad.

    Columns that are null count as absent, since a table cannot leave one out. Types are checked
    in the first alternative of `required` that the row satisfies.
    """
    row = _renamed(found, columns)
    alternative = next((names for names in required if all(name in row for name in names)), ())
    if required and not alternative:
        return BadRow(_missing(found, columns, required))
    for name in alternative:
        if wrong := _wrong_value(name, columns.get(name, name), row[name]):
            return BadRow(wrong)
    unsafe = _unsafe(row)
    return BadRow(unsafe) if unsafe else row


def _renamed(found: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    taken = {*columns, *columns.values()}
    named = {name: found.get(column) for name, column in columns.items()}
    others = {name: value for name, value in found.items() if name not in taken}
    return {name: value for name, value in (named | others).items() if value is not None}


def _missing(
    found: Mapping[str, object], columns: Mapping[str, str], required: Sequence[Sequence[str]]
) -> str:
    def absent(names: Sequence[str]) -> list[str]:
        return [name for name in names if found.get(columns.get(name, name)) is None]

    nearest = min(required, key=lambda names: len(absent(names)) / len(names))
    name = absent(nearest)[0]
    column = columns.get(name, name)
    if column in found:
        return f"{column} is null"
    alternatives = ([columns.get(name, name) for name in names] for names in required)
    wanted = " or ".join(" + ".join(names) for names in alternatives)
    listed = ", ".join([*found][:LISTED_COLUMNS]) + ", …" * (len(found) > LISTED_COLUMNS)
    return (
        f"no column {column!r}{suggestion(column, found)}; expected {wanted}, the columns are "
        f"{listed or 'none'}; name yours with data.{name}_column=..."
    )


def _wrong_value(name: str, column: str, value: object) -> str | None:
    if name == "messages" or (name in CONVERSATIONS and isinstance(value, list)):
        return _wrong_messages(column, value)
    if name != "text" and name not in CONVERSATIONS:
        return None
    if not isinstance(value, str):
        return f"{column} is {_described(value)}; expected text"
    return "empty text" if name == "text" and not value.strip() else None


def _wrong_messages(column: str, messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"{column} is {_described(messages)}; expected a list of messages"
    for index, message in enumerate(messages):
        place = f"{column}[{index}]"
        if not isinstance(message, dict):
            return f"{place} is {_described(message)}; expected an object with role and content"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            return f"{place}.role is {_described(role)}; expected text"
        # A turn that only calls tools says nothing.
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            return f"{place}.content is {_described(content)}; expected text"
    return None


def _described(value: object) -> str:
    if value is None or value == [] or isinstance(value, bool | int | float):
        return json.dumps(value)
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _unsafe(row: Row) -> str | None:
    for name, value in row.items():
        for text in _strings(value):
            if "\0" in text:
                return f"{name} holds a NUL character"
            if not _is_encodable(text):
                return f"{name} holds a lone surrogate, which is no character"
    return None


def _strings(value: object) -> Iterator[str]:
    waiting = [value]  # not recursive: JSON may be nested deeper than Python's stack
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as mapping:
                waiting += mapping.values()
            case list() | tuple() as sequence:
                waiting += sequence


def _is_encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
