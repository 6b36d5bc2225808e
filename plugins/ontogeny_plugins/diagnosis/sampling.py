"""A sample of a text: some rows to measure on, others to count in, none of them in both."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ontogeny.data.pipeline import SourceReader
from ontogeny.data.splitting import is_held_out, row_key
from ontogeny.errors import DataError
from ontogeny.options import Data, Source, Validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ontogeny.objective import Row

TEXT = (("text",),)
# What rows of a task may look like; the first alternative that a row has is its text.
TASK = (
    *(("text",), ("messages",), ("prompt", "completion"), ("prompt", "chosen")),
    *(("chosen",), ("completion",), ("prompt",), ("tokens",)),
    *(("context", "question", "choices"), ("question", "choices"), ("context", "question")),
)
ENOUGH = 30  # held-out texts, for which a larger share than data.validation.share is held out
LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class Sample:
    """Texts of one source, in an order that depends on their content alone."""

    name: str
    path: str
    measured: Sequence[str]  # held out: no model or count of ours has seen them
    counted: Sequence[str]
    rows: int  # of the whole source
    share: float  # of the rows that is held out
    columns: frozenset[str]  # of the first row

    def counted_bytes(self) -> int:
        """Count the bytes of the texts to count in."""
        return sum(len(text.encode()) for text in self.counted)


def draw_sample(
    name: str,
    path: str,
    data: Data,
    *,
    documents: int,
    size: int,
    announce: Callable[[str], None],
) -> Sample:
    """Return up to `documents` held-out texts and about `size` bytes of the others.

    Raises DataError where a source is too small to hold out two texts and keep two.
    """
    required = TASK if name == "task" else TEXT
    rejected: list[str] = []
    reader = SourceReader(name, path, data, required)
    rows = sum(1 for _ in reader.records(lambda where, _: rejected.append(where)))
    if rejected:
        announce(f"{path}: {len(rejected)} bad rows left out, first {rejected[0]}")
    share = min(LARGEST_SHARE, max(data.validation.share, ENOUGH / max(1, rows)))
    measured, counted = _Lowest(documents), _Lowest(size)
    columns: frozenset[str] = frozenset()
    for record in reader.records(lambda *_: None):
        columns = columns or frozenset(record.row)
        text, key = text_of(record.row), int.from_bytes(row_key(record.row))
        if is_held_out(record.row, share):
            measured.add(key, text, 1)
        else:
            counted.add(key, text, len(text.encode()))
    sample = Sample(name, path, measured.texts(), counted.texts(), rows, share, columns)
    _require_enough(sample)
    return sample


def text_of(row: Row) -> str:
    """Return all that a row says: its text, conversation, prompt with answer, or tokens."""
    names = next(names for names in TASK if all(name in row for name in names))
    return "\n".join(_said(row[name]) for name in names)


def data_of(samples: Iterable[Sample], data: Data, weights: Mapping[str, float]) -> Data:
    """Return data options that train on these sources, and on none of the measured texts."""
    kept = list(samples)
    sources = {each.name: Source(each.path, weights.get(each.name)) for each in kept}
    share = max(each.share for each in kept)
    validation: Validation = replace(data.validation, share=share)
    return replace(data, path=None, example=None, sources=sources, validation=validation)


def within(texts: Iterable[str], size: int) -> list[str]:
    """Return as many of the first texts as it takes to reach `size` bytes."""
    kept: list[str] = []
    for text in texts:
        if size <= 0:
            break
        kept.append(text)
        size -= len(text.encode())
    return kept


class _Lowest:
    """The texts with the lowest keys, as many as it takes to reach a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._heap: list[tuple[int, int, str]] = []  # the highest key first

    def add(self, key: int, text: str, size: int) -> None:
        heapq.heappush(self._heap, (-key, size, text))
        self._size += size
        while self._size - self._heap[0][1] >= self._limit:
            self._size -= heapq.heappop(self._heap)[1]

    def texts(self) -> list[str]:
        return [text for _, _, text in sorted(self._heap, key=lambda item: -item[0])]


def _said(value: object) -> str:
    """Return the text of a column: itself, the contents of messages, or words in a row."""
    if isinstance(value, list):
        parts = (part.get("content") if isinstance(part, dict) else part for part in value)
        separator = "\n" if value and isinstance(value[0], dict) else " "
        return separator.join(str(part) for part in parts if part is not None)
    return str(value)


def _require_enough(sample: Sample) -> None:
    if len(sample.measured) < 2 or len(sample.counted) < 2:
        msg = (
            f"data.{sample.name}.path: {sample.path} has {sample.rows} rows, too few to measure on "
            f"some and count in others; give more text, or a smaller data.text_unit"
        )
        raise DataError(msg)
