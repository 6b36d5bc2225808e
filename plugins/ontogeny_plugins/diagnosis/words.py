"""Words: how many a text has, and how far two texts share their commonest ones."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

COMMONEST = 10_000
# Han characters and kana stand for words of their own: they are written without spaces.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")


def words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case: runs of letters and digits, or one Han or kana."""
    return (found.group() for found in _WORD.finditer(text.casefold()))


def words_of(texts: Iterable[str]) -> Iterator[str]:
    """Yield the words of several texts in turn."""
    return (word for text in texts for word in words(text))


def shared_words(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the share of their commonest words that two texts have in common, 0 to 1.

    The 10,000 commonest of each (Gururangan et al., 2020), or fewer in short texts: as many as
    both have that occur twice. It falls with shorter texts, so compare texts of equal length.
    """
    counted = [Counter(left), Counter(right)]
    repeated = (sum(count > 1 for count in each.values()) for each in counted)
    limit = min(COMMONEST, *repeated)
    if limit == 0:
        return 0.0
    first, second = ({word for word, _ in _commonest(each, limit)} for each in counted)
    return len(first & second) / limit


def overlaps(domain: Iterable[str], general: Sequence[str]) -> tuple[float, float]:
    """Return how far the domain shares its words with general text, and general text with itself.

    Both are measured on as many words: general texts are dealt into two halves, one of which is
    compared with the other and with the domain.
    """
    halves = [list(words_of(general[start::2])) for start in (0, 1)]
    length = min(map(len, halves))
    found = list(islice(words_of(domain), length))
    half, other = (each[: len(found)] for each in halves)
    return shared_words(found, half), shared_words(other, half)


def task_overlaps(
    task: Iterable[str], domain: Iterable[str], general: Iterable[str]
) -> tuple[float, float]:
    """Return how far a task shares its words with the domain, and with general text."""
    found = [list(words_of(texts)) for texts in (task, domain, general)]
    length = min(map(len, found))
    own, *others = (each[:length] for each in found)
    with_domain, with_general = (shared_words(own, each) for each in others)
    return with_domain, with_general


def _commonest(counted: Counter[str], limit: int) -> list[tuple[str, int]]:
    """Return the commonest words; of equally common ones, those first in the alphabet."""
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:limit]
