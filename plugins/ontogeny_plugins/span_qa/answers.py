"""Answers as rows give them, and how SQuAD compares them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ontogeny.objective import Row

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Answer:
    """A span of the context, in characters."""

    text: str
    start: int

    @property
    def stop(self) -> int:
        """Where the first character after it stands."""
        return self.start + len(self.text)


def answers_of(row: Row) -> list[Answer]:
    """Return the answers of a row, none where the question has none.

    Raises ValueError, with what a message can go on with, for one that does not stand in the
    context where it says it does. Both forms of SQuAD are read: a list of {text, answer_start}, or
    {text: [...], answer_start: [...]}.
    """
    context = cast("str", row["context"])
    for name in ("question", "context"):
        if not isinstance(row[name], str) or not cast("str", row[name]).strip():
            raise ValueError(f"{name} is {_told(row[name])}; expected text")
    answers = [_answer(*pair) for pair in _pairs(row["answers"])]
    for answer in answers:
        found = context[answer.start : answer.stop]
        if answer.start < 0 or found != answer.text:
            there = f"where the context has {found!r}" if found else "outside the context"
            size = f" of {len(context)} characters" if not found else ""
            raise ValueError(
                f"the answer {_told(answer.text)} is said to begin at character {answer.start}, "
                f"{there}{size}"
            )
    return answers


def _pairs(answers: object) -> Sequence[tuple[object, object]]:
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    if isinstance(answers, list) and all(isinstance(each, Mapping) for each in answers):
        return [(each.get("text"), each.get("answer_start")) for each in answers]
    raise ValueError(
        f"answers is {_told(answers)}; expected a list of {{text, answer_start}}, or "
        f"{{text: [...], answer_start: [...]}} of equal length"
    )


def _answer(text: object, start: object) -> Answer:
    if not isinstance(text, str) or not text:
        raise ValueError(f"the text of an answer is {_told(text)}; expected some of the context")
    if not isinstance(start, int) or isinstance(start, bool):
        raise ValueError(f"answer_start is {_told(start)}; expected a number of characters")  # noqa: TRY004
    return Answer(text, start)


def normalised(text: str) -> str:
    """Return lower-case words without punctuation and articles, as SQuAD's script does."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(said: str, true: Sequence[str]) -> float:
    """Return 1 if the answer is one of the true ones; no answer is the empty text."""
    return float(any(normalised(said) == each for each in _gold(true)))


def word_f1(said: str, true: Sequence[str]) -> float:
    """Return the F1 of words with the true answer that it has most in common with."""
    return max(_f1(normalised(said).split(), each.split()) for each in _gold(true))


def _gold(true: Sequence[str]) -> list[str]:
    return [words for each in true if (words := normalised(each))] or [""]


def _f1(said: Sequence[str], true: Sequence[str]) -> float:
    if not said or not true:  # no answer is right or wrong, and nothing between
        return float(said == true)
    both = sum((Counter(said) & Counter(true)).values())
    return 2 * both / (len(said) + len(true))


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
