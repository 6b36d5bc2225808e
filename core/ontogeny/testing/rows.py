"""Rows to try a component on: small, of unequal length, for every column that has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.data.rows import CONVERSATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ontogeny.objective import Row

COUNT = 12
TEXT = "the river ran on past an old mill where nobody had ground corn for many years"
WORDS = TEXT.split()
TAGS = {"river": 1, "mill": 1, "corn": 1}  # everything else is 0


def sample_rows(columns: Sequence[Sequence[str]]) -> list[Row]:
    """Return a dozen rows with the columns of the first alternative that has samples.

    Raises ValueError when none has: give rows of your own.
    """
    for names in columns:
        if all(name in _SAMPLES for name in names):
            return [_row(names, number) for number in range(COUNT)]
    wanted = " or ".join(" + ".join(names) for names in columns)
    message = f"there are no sample rows with {wanted}; give your own: rows=[...]"
    raise ValueError(message)


def _row(names: Sequence[str], number: int) -> Row:
    row = {name: _SAMPLES[name](number) for name in names}
    if "label" in row and not CONVERSATIONS.isdisjoint(row):
        row["label"] = bool(row["label"])  # whether the completion is a good one
    return row


def _words(number: int, offset: int) -> list[str]:
    """Return 2 to 5 words, another choice for every number and offset."""
    first = (5 * number + offset) % len(WORDS)
    return [WORDS[(first + word) % len(WORDS)] for word in range(2 + (number + offset) % 4)]


def _text(offset: int) -> Callable[[int], str]:
    return lambda number: " ".join(_words(number, offset))


def _messages(number: int) -> list[dict[str, str]]:
    question, answer = _text(0)(number), _text(7)(number)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


_SAMPLES: dict[str, Callable[[int], object]] = {
    "text": _text(0),
    "prompt": _text(3),
    "completion": _text(7),
    "messages": _messages,
    "chosen": _text(8),
    "rejected": _text(13),
    "label": lambda number: number % 2,
    "tokens": lambda number: _words(number, 0),
    "tags": lambda number: [TAGS.get(word, 0) for word in _words(number, 0)],
}
