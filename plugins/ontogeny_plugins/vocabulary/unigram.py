"""Unigram: the likeliest sequence of tokens is taken (Kudo, 2018).

A new token scores the sum of the pieces that it stands for, and a little more for each token that
it saves. So the likeliest old sequence is still chosen and, of its coarser forms, the shortest: new
tokens are used exactly where they save tokens. (Where two old sequences are nearer to each other
than that little, the one that new tokens make shorter may win.)
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from ontogeny_plugins.vocabulary.lazy_greedy import choose
from ontogeny_plugins.vocabulary.rules import byte_tokens, characters
from ontogeny_plugins.vocabulary.token_model import NewToken, TokenModel

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.units import Unit, Units

LITTLE = 1e-4  # nats, for each token saved: more than float32 loses in a sum of scores
NOTHING_SAVED = 1e-7  # nats, for any: an unknown character as a token saves none, but is wanted
UNKNOWN = 10.0  # nats below the lowest score: what the library takes for an unknown character
LONGEST_RUN = 16  # pieces of a candidate
Span = tuple[int, int]  # of pieces in a unit: first, and first after it


class Unigrams(TokenModel):
    """A Unigram model: a new token is a piece with a score."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self._vocabulary = cast("list[tuple[str, float]]", rules["model"]["vocab"])
        self._unknown = cast("int | None", rules["model"]["unk_id"])
        self._unknown_score = min(score for _, score in self._vocabulary) - UNKNOWN
        self._bytes = byte_tokens(rules)

    def add(self, spelling: str) -> int | None:
        """Add a piece that is likelier than what its spelling is cut into."""
        tokens = self.cut(spelling)
        known = [token for token in tokens if token != self._unknown]
        written = sum(len(self._vocabulary[token][0]) for token in known)
        strange = len(spelling) - written if len(known) < len(tokens) else 0
        return self._add(spelling, known, strange)

    def pick(self, units: Units, size: int, min_saved: int) -> int:
        """Add what saves most tokens beside those that are there; again and again."""
        spellings = [token for token, _ in self._vocabulary]
        words = _Words(units.counts, _Reader(spellings, self.apart, self._bytes), min_saved)

        def take(candidate: str) -> None:
            words.take(candidate)
            self._add(candidate, words.runs[candidate])

        return choose(words.estimates, words.gain, take, size, min_saved)

    def _add(self, spelling: str, tokens: Sequence[int], strange: int = 0) -> int:
        """Add a piece that stands for tokens, old and new, and for unknown characters."""
        bonus = LITTLE * (len(tokens) + strange - 1) + NOTHING_SAVED
        parts = characters(tokens, self._bytes)
        pieces = [part for part in parts if isinstance(part, int) and part not in self._bytes]
        strange += len(parts) - len(pieces)  # spelled in bytes: unknown to the model all the same
        score = sum(self._vocabulary[token][1] for token in pieces) + strange * self._unknown_score
        self._vocabulary.append((spelling, score + bonus))
        return self.note(NewToken(spelling, self.old_pieces(tokens)))


class _Words:
    """Units of text, each cut into the fewest tokens that the chosen runs of pieces allow."""

    def __init__(self, units: Mapping[Unit, int], reader: _Reader, least: int) -> None:
        self._units, self._counts = list(units), list(units.values())
        self._reader = reader
        alone: defaultdict[str, int] = defaultdict(int)
        for word, begin, end, run in self._all_runs():
            alone[run] += self._counts[word] * (end - begin - 1)
        # What each candidate saves alone, its pieces, and where it stands.
        self.estimates = {run: saved for run, saved in alone.items() if saved >= least}
        self.runs: dict[str, Unit] = {}
        self._spans: defaultdict[str, list[tuple[int, Span]]] = defaultdict(list)
        for word, begin, end, run in self._all_runs():
            if run in self.estimates:
                self._spans[run].append((word, (begin, end)))
                self.runs.setdefault(run, self._units[word][begin:end])
        self._chosen: list[list[Span]] = [[] for _ in self._units]
        self._before = [[0] * (len(unit) + 1) for unit in self._units]  # saved up to a place
        self._after = [[0] * (len(unit) + 1) for unit in self._units]  # saved from it on

    def gain(self, candidate: str) -> int:
        """Return how many tokens a candidate saves beside those that are chosen."""
        gained = 0
        for word, found in groupby(self._spans[candidate], key=itemgetter(0)):
            before, after = self._before[word], self._after[word]
            spans = [span for _, span in found]
            begin, end = spans[0]
            saved = before[begin] + end - begin - 1 + after[end]
            if len(spans) > 1:
                saved = most_saved(len(before), [*self._chosen[word], *spans])[-1]
            gained += self._counts[word] * max(0, saved - before[-1])
        return gained

    def take(self, candidate: str) -> None:
        """Choose a candidate."""
        for word, span in self._spans[candidate]:
            self._chosen[word].append(span)
        for word in {word for word, _ in self._spans[candidate]}:
            size = len(self._before[word])
            mirrored = [(size - 1 - end, size - 1 - begin) for begin, end in self._chosen[word]]
            self._before[word] = most_saved(size, self._chosen[word])
            self._after[word] = most_saved(size, mirrored)[::-1]

    def _all_runs(self) -> Iterator[tuple[int, int, int, str]]:
        """Yield (unit, begin, end, spelling) of all runs of pieces that could be a token."""
        for word, unit in enumerate(self._units):
            for (begin, end), run in self._reader.runs(unit):
                yield word, begin, end, run


class _Reader:
    """Spells the pieces of units: tokens, and the characters that several bytes stand for."""

    def __init__(
        self, spellings: Sequence[str], apart: Container[int], byte_tokens: Mapping[int, int]
    ) -> None:
        self._spellings, self._known = spellings, set(spellings)
        self._apart, self._bytes = apart, byte_tokens

    def runs(self, unit: Unit) -> Iterator[tuple[Span, str]]:
        """Yield the runs of pieces that could be a token, and how they are spelled."""
        pieces = self._pieces(unit)
        for first, (begin, _, _) in enumerate(pieces):
            run = ""
            for _, end, spelling in pieces[first:]:
                if spelling is None or end - begin > LONGEST_RUN:
                    break
                run += spelling
                if end - begin > 1 and run not in self._known:
                    yield (begin, end), run

    def _pieces(self, unit: Unit) -> list[tuple[int, int, str | None]]:
        """Return begin, end and spelling of all pieces; none for what stays apart."""
        parts = characters(unit, self._bytes) if self._bytes else unit
        pieces: list[tuple[int, int, str | None]] = []
        begin = 0
        for part in parts:
            if isinstance(part, str):
                end = begin + len(part.encode())
                pieces.append((begin, end, part))
            else:
                end = begin + 1
                pieces.append((begin, end, None if part in self._apart else self._spellings[part]))
            begin = end
        return pieces


def most_saved(places: int, spans: Sequence[Span]) -> list[int]:
    """Return, for each place, how many tokens spans up to it save at most that do not overlap."""
    begins: defaultdict[int, list[int]] = defaultdict(list)
    for begin, end in spans:
        begins[end].append(begin)
    saved = [0] * places
    for end in range(1, places):
        joined = (saved[begin] + end - begin - 1 for begin in begins[end])
        saved[end] = max([saved[end - 1], *joined])
    return saved
