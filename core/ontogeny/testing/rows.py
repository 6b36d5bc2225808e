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
TAGS = {"river": "B-PLACE", "old": "B-PLACE", "mill": "I-PLACE", "corn": "B-PLANT"}  # else O


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


def _answers(number: int) -> dict[str, list[object]]:
    """Return the second word of the context; every fourth question has no answer."""
    first, second = _words(number, 5)[:2]
    if number % 4 == 3:
        return {"text": [], "answer_start": []}
    return {"text": [second], "answer_start": [len(first) + 1]}


def _choices(number: int) -> list[str]:
    return [_text(offset)(number) for offset in range(7, 9 + number % 2)]


_SAMPLES: dict[str, Callable[[int], object]] = {
    "text": _text(0),
    "prompt": _text(3),
    "completion": _text(7),
    "messages": _messages,
    "chosen": _text(8),
    "rejected": _text(13),
    "label": lambda number: number % 2,
    "tokens": lambda number: _words(number, 0),
    "tags": lambda number: [TAGS.get(word, "O") for word in _words(number, 0)],
    "question": _text(2),
    "context": _text(5),
    "answers": _answers,
    "choices": _choices,
}
