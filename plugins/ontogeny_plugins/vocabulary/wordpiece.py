"""WordPiece: the longest token that matches is taken, from left to right (Wu et al., 2016)."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, cast

from ontogeny_plugins.vocabulary.lazy_greedy import choose
from ontogeny_plugins.vocabulary.token_model import NewToken, TokenModel

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.units import Units

LONGEST_RUN = 16  # pieces of a candidate


class WordPieces(TokenModel):
    """A WordPiece model: a new token is a beginning of words, or `##` and what goes on in one."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        model = rules["model"]
        self._vocabulary = cast("dict[str, int]", model["vocab"])
        self._before = dict(self._vocabulary)
        self._prefix = cast("str", model["continuing_subword_prefix"])

    def add(self, spelling: str) -> int | None:
        """Add a token as it is; the tokenizer finds it where it is the longest that matches."""
        pieces = self._cut(spelling, self._before) or []
        number = self._vocabulary[spelling] = self.note(NewToken(spelling, pieces))
        return number

    def pick(self, units: Units, size: int, min_saved: int) -> int:
        """Add what saves most tokens when all words with it are cut anew; again and again."""
        spellings = {number: token for token, number in self._vocabulary.items()}
        words = _Words(self._prefix)
        for unit, count in units.counts.items():
            if self.apart.isdisjoint(unit):
                words.append([spellings[token] for token in unit], count)
        words.index()

        def cuts(candidate: str) -> Iterator[tuple[int, list[int] | None]]:
            for word in words.with_token(candidate):
                yield word, self._cut(words.texts[word], self._vocabulary)

        def gain(candidate: str) -> int:
            self._vocabulary[candidate] = -1
            gained = 0
            for word, pieces in cuts(candidate):
                if pieces is None:  # it would become unknown
                    gained = 0
                    break
                gained += words.counts[word] * (words.lengths[word] - len(pieces))
            del self._vocabulary[candidate]
            return gained

        def take(candidate: str) -> None:
            self.add(candidate)
            for word, pieces in cuts(candidate):
                words.lengths[word] = len(pieces or [])

        return choose(words.candidates, gain, take, size, min_saved)

    def _cut(self, token: str, vocabulary: dict[str, int]) -> list[int] | None:
        """Return the tokens of a word, or of what goes on in one; None if there are none."""
        pieces: list[int] = []
        goes_on = token.startswith(self._prefix)
        rest = token.removeprefix(self._prefix)
        while rest:
            start = self._prefix if goes_on else ""
            ends = range(len(rest), 0, -1)
            end = next((end for end in ends if start + rest[:end] in vocabulary), None)
            if end is None:
                return None
            pieces.append(vocabulary[start + rest[:end]])
            rest, goes_on = rest[end:], True
        return pieces


class _Words:
    """The words of a text that are cut into several tokens."""

    def __init__(self, prefix: str) -> None:
        self.texts: list[str] = []
        self.counts: list[int] = []
        self.lengths: list[int] = []  # in tokens
        self.candidates: dict[str, int] = {}  # runs of tokens, and what they would save at once
        self._prefix = prefix
        self._all = ""
        self._starts: list[int] = []

    def append(self, pieces: Sequence[str], count: int) -> None:
        bare = [pieces[0], *(piece.removeprefix(self._prefix) for piece in pieces[1:])]
        self.texts.append("".join(bare))
        self.counts.append(count)
        self.lengths.append(len(bare))
        for begin in range(len(bare)):
            for end in range(begin + 2, min(len(bare), begin + LONGEST_RUN) + 1):
                run = (self._prefix if begin else "") + "".join(bare[begin:end])
                saved = count * (end - begin - 1)
                self.candidates[run] = self.candidates.get(run, 0) + saved

    def index(self) -> None:
        """Write all words in one line, to look through at once."""
        self._all = "".join(f"\n{word}" for word in self.texts) + "\n"
        self._starts = list(accumulate((len(word) + 1 for word in self.texts), initial=0))

    def with_token(self, token: str) -> Collection[int]:
        """Return the words in which a token may be found, at the beginning or further on."""
        begins = not token.startswith(self._prefix)
        sought = f"\n{token}" if begins else token.removeprefix(self._prefix)
        found: dict[int, None] = {}
        place = self._all.find(sought)
        while place >= 0:
            word = bisect_right(self._starts, place) - 1
            if begins or place > self._starts[word] + 1:
                found[word] = None
                place = self._starts[word + 1] - 1
            place = self._all.find(sought, place + 1)
        return found.keys()
