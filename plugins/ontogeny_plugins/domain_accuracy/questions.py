"""Questions out of plain text: the last content word of a sentence, among words of like frequency.

A question's context is all that stands before the word; its choices are the word and wrong ones,
each with the rest of the sentence. Wrong words end other sentences of the corpus, so that whoever
knows nothing of the field finds them as likely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.choices import Question
from ontogeny.seeding import derive
from ontogeny_plugins.domain_accuracy.words import WORD, Vocabulary, vocabulary_of, words

if TYPE_CHECKING:
    from ontogeny_plugins.domain_accuracy import DomainAccuracy

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
WORDS_BEFORE = 4  # in the sentence: fewer tell nothing of what comes
NEAREST = 20  # words of like frequency that wrong ones are drawn from, at least


@dataclass(frozen=True)
class Gap:
    """A word in a text that may be asked for."""

    before: str
    word: str
    after: str  # to the end of the sentence


class QuestionMaker:
    """Makes questions out of the texts of a corpus."""

    def __init__(self, texts: Sequence[str], options: DomainAccuracy) -> None:
        self.options = options
        self.vocabulary = vocabulary_of(texts, options.min_letters)
        asked = (gap.word for text in texts for gap in gaps_of(text, self.vocabulary))
        self.answers = list(dict.fromkeys(asked))  # of all questions, as they are written
        counts = [self.vocabulary.counts[word.lower()] for word in self.answers]
        self.log_counts = np.log(np.array(counts, float))

    def question(self, text: str, place: int) -> tuple[Question, str] | None:
        """Return a question out of a text, and the right word alone; none without a fit sentence.

        Which sentence, which wrong words and in what order depends on the seed and on `place`.
        """
        generator = np.random.default_rng(derive(self.options.seed, "question", place))
        gaps = list(gaps_of(text, self.vocabulary))
        if not gaps:
            return None
        gap = gaps[int(generator.integers(len(gaps)))]
        excluded = {word.lower() for word in words(text)}
        wrong = self._of_like_frequency(gap.word, excluded, generator)
        if len(wrong) < self.options.choices - 1:
            return None
        answer = int(generator.integers(self.options.choices))
        ordered = [*wrong[:answer], gap.word, *wrong[answer:]]
        choices = tuple(word + gap.after for word in ordered)
        return Question(gap.before, choices, answer), gap.word

    def _of_like_frequency(
        self, word: str, excluded: set[str], generator: np.random.Generator
    ) -> list[str]:
        """Draw wrong words that occur about as often and are written in the same case.

        `excluded` are words in lower case. Returns too few where there are no more.
        """
        wanted = np.log(self.vocabulary.counts[word.lower()])
        # Most words of a text stand there once: which of them are nearest is drawn.
        shuffled = generator.permutation(len(self.answers))
        order = shuffled[np.argsort(np.abs(self.log_counts[shuffled] - wanted), kind="stable")]
        in_order = (self.answers[int(index)] for index in order)
        fit = (
            other
            for other in in_order
            if other.lower() not in excluded and other[0].isupper() == word[0].isupper()
        )
        count = self.options.choices - 1
        nearest = list(islice(fit, max(NEAREST, 5 * count)))
        return [nearest[int(index)] for index in generator.permutation(len(nearest))[:count]]


def gaps_of(text: str, vocabulary: Vocabulary) -> Iterator[Gap]:
    """Yield the last content word of each sentence, unless it stands before it in the text."""
    seen: set[str] = set()
    for start, end in _sentences(text):
        found = None
        for number, match in enumerate(WORD.finditer(text, start, end)):
            word = match.group().lower()
            if number >= WORDS_BEFORE and vocabulary.is_content(word) and word not in seen:
                found = match
            seen.add(word)
        if found is not None:
            yield Gap(text[: found.start()], found.group(), text[found.end() : end].rstrip())


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where sentences begin and end."""
    start = 0
    for match in SENTENCE_END.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)
