"""Byte-pair encoding: its training goes on, on the text of the domain (Sennrich et al., 2016).

New merges come after all old ones. So what the old merges make of a text stays as it is, and each
new merge shortens it by exactly as many tokens as its pair is found.
"""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from ontogeny_plugins.vocabulary.linked_text import LinkedText
from ontogeny_plugins.vocabulary.rules import byte_tokens, characters
from ontogeny_plugins.vocabulary.token_model import NewToken, TokenModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ontogeny_plugins.vocabulary.linked_text import Pair
    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.units import Unit, Units

STAND_INS = -2  # and downwards: characters that are spelled in bytes


class BytePairs(TokenModel):
    """A BPE model: a new token is a merge of two that are there, or a character of its own."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        model = rules["model"]
        self._vocabulary = cast("dict[str, int]", model["vocab"])
        self._merges = cast("list[list[str]]", model["merges"])
        self._prefix = len(model["continuing_subword_prefix"] or "")
        self._spellings = {number: token for token, number in self._vocabulary.items()}
        self._bytes = byte_tokens(rules)
        self._merged_into: dict[Pair, int] = {}  # the new merges in their order

    def add(self, spelling: str) -> int | None:
        """Add merges until one token is left; those in between are new tokens too.

        None may make a token that exists: it would change how other text is encoded.
        """
        tokens = [
            self._character(token) if isinstance(token, str) else token
            for token in characters(self.cut(spelling), self._bytes)
        ]
        if any(token in self.apart for token in tokens):
            return None
        while len(tokens := self._merge(tokens)) > 1:
            pairs = pairwise(tokens)
            free = next((pair for pair in pairs if self._join(pair) not in self._vocabulary), None)
            if free is None:
                return None
            self._add_merge(free)
        return tokens[0]

    def pick(self, units: Units, size: int, min_saved: int) -> int:
        """Add the merge, or the character, that saves most; again and again."""
        stand_ins = _StandIns(self._bytes)
        counts = {stand_ins.write(unit): count for unit, count in units.counts.items()}
        text = LinkedText(counts, self.apart | set(stand_ins.characters))
        heap = [
            (-text.occurrences(number) * (len(character.encode()) - 1), (number, number))
            for number, character in stand_ins.characters.items()
        ]
        heapq.heapify(heap)
        saved, wanted = 0, len(self.new) + size
        while len(self.new) < wanted:
            for pair in sorted(text.changed):
                heapq.heappush(heap, (-text.counts[pair], pair))
            text.changed.clear()
            if not heap or -heap[0][0] < min_saved:
                break
            estimate, pair = heapq.heappop(heap)
            if pair[0] in stand_ins.characters:
                text.rename(pair[0], self._character(stand_ins.characters[pair[0]]))
                saved -= estimate
            elif (count := text.counts[pair]) < -estimate:
                heapq.heappush(heap, (-count, pair))
            elif self._join(pair) not in self._vocabulary:
                saved += text.merge(pair, self._add_merge(pair))
        return saved

    def _merge(self, tokens: list[int]) -> list[int]:
        """Apply the new merges as the tokenizer will: the oldest first, from left to right."""
        while known := [
            (self._merged_into[pair], pair)
            for pair in pairwise(tokens)
            if pair in self._merged_into
        ]:
            new, pair = min(known)
            merged = tokens[:1]
            for token in tokens[1:]:
                if (merged[-1], token) == pair:
                    merged[-1] = new
                else:
                    merged.append(token)
            tokens = merged
        return tokens

    def _join(self, pair: Pair) -> str:
        left, right = (self._spellings[token] for token in pair)
        return left + right[self._prefix :]

    def _add_merge(self, pair: Pair) -> int:
        spelling = self._join(pair)
        self._merges.append([self._spellings[token] for token in pair])
        self._merged_into[pair] = number = self._add(NewToken(spelling, self.old_pieces(pair)))
        return number

    def _character(self, character: str) -> int:
        """Return the token of a character that the old rules spell in bytes."""
        if character in self._vocabulary:
            return self._vocabulary[character]
        numbers = {value: number for number, value in self._bytes.items()}
        return self._add(NewToken(character, [numbers[byte] for byte in character.encode()]))

    def _add(self, token: NewToken) -> int:
        number = self._vocabulary[token.spelling] = self.note(token)
        self._spellings[number] = token.spelling
        return number


class _StandIns:
    """Numbers below any id, for the characters that a text spells in several byte tokens."""

    def __init__(self, byte_tokens: Mapping[int, int]) -> None:
        self.characters: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._bytes = byte_tokens

    def write(self, unit: Unit) -> Unit:
        """Return a unit with stand-ins for its characters."""
        if not self._bytes or self._bytes.keys().isdisjoint(unit):
            return unit
        tokens = characters(unit, self._bytes)
        return tuple(self._number(each) if isinstance(each, str) else each for each in tokens)

    def _number(self, character: str) -> int:
        if character not in self._numbers:
            number = STAND_INS - len(self._numbers)
            self._numbers[character], self.characters[number] = number, character
        return self._numbers[character]
