"""Counted units of tokens in which pairs are merged, with the number of every pair up to date."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ontogeny_plugins.vocabulary.units import Unit

Pair = tuple[int, int]
END = -1  # no place


class LinkedText:
    """All units as one doubly linked list of places; a merge costs what it changes, no more.

    Tokens in `apart` are never half of a pair.
    """

    def __init__(self, units: Mapping[Unit, int], apart: Container[int]) -> None:
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.changed: set[Pair] = set()  # pairs that became more frequent; whoever looks clears it
        self._apart = apart
        self._token: list[int] = []
        self._next: list[int] = []
        self._last: list[int] = []
        self._weight: list[int] = []
        self._places: defaultdict[Pair, list[int]] = defaultdict(list)  # may hold stale ones
        self._apart_places: defaultdict[int, list[int]] = defaultdict(list)
        for unit, weight in units.items():
            self._append(unit, weight)

    def merge(self, pair: Pair, new: int) -> int:
        """Write `new` for a pair wherever it stands, left to right; return the tokens saved."""
        saved = 0
        for place in sorted(self._places.pop(pair)):
            second = self._next[place]
            if second == END or (self._token[place], self._token[second]) != pair:
                continue
            self._unlink(place, second)
            self._token[place] = new
            after = self._next[place] = self._next[second]
            self._next[second], self._token[second] = END, END
            if after != END:
                self._last[after] = place
            self._link(place)
            saved += self._weight[place]
        self.counts.pop(pair, None)
        return saved

    def rename(self, old: int, new: int) -> None:
        """Write `new` for a token that was apart until now."""
        for place in self._apart_places.pop(old):
            self._token[place] = new
            self._link(place)

    def occurrences(self, token: int) -> int:
        """Return how often a token that is apart occurs."""
        return sum(self._weight[place] for place in self._apart_places[token])

    def _append(self, unit: Unit, weight: int) -> None:
        first = len(self._token)
        self._token += unit
        self._next += [*range(first + 1, first + len(unit)), END]
        self._last += [END, *range(first, first + len(unit) - 1)]
        self._weight += [weight] * len(unit)
        for place, token in enumerate(unit, first):
            if token in self._apart:
                self._apart_places[token].append(place)
            if place > first:
                self._count(place - 1, place)

    def _unlink(self, place: int, second: int) -> None:
        """Take the pairs with the neighbours, and the pair itself, out of the counts."""
        for left, right in (
            (self._last[place], place),
            (place, second),
            (second, self._next[second]),
        ):
            if END not in (left, right):
                self.counts[self._token[left], self._token[right]] -= self._weight[place]

    def _link(self, place: int) -> None:
        before, after = self._last[place], self._next[place]
        if before != END:
            self._count(before, place)
        if after != END:
            self._count(place, after)

    def _count(self, left: int, right: int) -> None:
        pair = self._token[left], self._token[right]
        if pair[0] in self._apart or pair[1] in self._apart:
            return
        self.counts[pair] += self._weight[left]
        self._places[pair].append(left)
        self.changed.add(pair)
