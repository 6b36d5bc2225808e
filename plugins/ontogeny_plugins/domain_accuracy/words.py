"""The words of a corpus: how often they occur, and which of them carry its content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")  # letters of any script, hyphens inside


@dataclass(frozen=True)
class Vocabulary:
    """How often each word occurs, in lower case, and those that carry content."""

    counts: Counter[str]
    content: frozenset[str]

    def is_content(self, word: str) -> bool:
        """Say whether a word, however it is written, carries content."""
        return word.lower() in self.content


def vocabulary_of(texts: Sequence[str], min_letters: int) -> Vocabulary:
    """Count the words of a corpus, and find those that carry its content.

    Those are words of `min_letters` or more, without the commonest ones that make up half of the
    running text: in most languages these are the words of its grammar.
    """
    counts = Counter(word.lower() for text in texts for word in words(text))
    common = _commonest(counts, counts.total() / 2)
    content = (word for word in counts if len(word) >= min_letters and word not in common)
    return Vocabulary(counts, frozenset(content))


def words(text: str) -> Iterator[str]:
    """Yield the words of a text as they stand there."""
    return (found.group() for found in WORD.finditer(text))


def _commonest(counts: Counter[str], running: float) -> set[str]:
    """Return the commonest words that together stand `running` times in the text, or fewer."""
    common: set[str] = set()
    for word, number in counts.most_common():
        running -= number
        if running < 0:
            break
        common.add(word)
    return common
