"""Which row comes at which position of a mixture: a pure function, so resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np

from ontogeny.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT = 1 << 32  # shares and phases are counted in parts of it
CACHED_EPOCHS = 2  # two, because prefetching workers straddle the border


@dataclass(frozen=True)
class Source:
    """One source of a mixture, as packed."""

    name: str
    rows: int  # packed rows, or examples where nothing is packed
    tokens: int  # real tokens in all of these rows, without padding
    weight: float | None = None  # requested share of the tokens, in any unit; None: by size


class Place(NamedTuple):
    """Where to find the row of one position."""

    source: int
    row: int
    epoch: int  # how often that source was gone through before


class Change(NamedTuple):
    """New weights of a mixture from a position on."""

    position: int
    weights: list[float]  # one for each source


class _Segment(NamedTuple):
    """Positions with the same shares."""

    start: int
    row_shares: list[int]
    before: list[int]  # rows that each source has given before `start`


@dataclass(frozen=True)
class Stream:
    """The rows of one source without end: every epoch is another permutation of all of them."""

    rows: int
    seed: int
    name: str
    _permutations: dict[int, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def locate(self, index: int) -> tuple[int, int]:
        """Return (row, epoch)."""
        epoch, offset = divmod(index, self.rows)
        return int(self._permutation(epoch)[offset]), epoch

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            while len(self._permutations) >= CACHED_EPOCHS:
                del self._permutations[next(iter(self._permutations))]
            random = np.random.Generator(np.random.PCG64(_seeds(self.seed, self.name, epoch)))
            self._permutations[epoch] = random.permutation(self.rows)
        return self._permutations[epoch]

    def __reduce__(self) -> tuple[type[Stream], tuple[int, int, str]]:
        """Leave the permutations behind: they are quickly made again."""
        return type(self), (self.rows, self.seed, self.name)


class Mixture:
    """An endless mixture of sources whose weights are shares of the *tokens*.

    Without weights, sources are mixed in proportion to their size, so `rows` positions show every
    row of every source exactly once. Raises ConfigError for weights that make no mixture.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources = tuple(sources)
        self.seed = seed
        trained = [source for source in self.sources if source.weight != 0]
        self.rows = sum(source.rows for source in trained)
        self.tokens = sum(source.tokens for source in trained)
        self.changes: list[Change] = []
        _check(self.sources)
        self._segments = [_Segment(0, _row_shares(self.sources), [0] * len(self.sources))]
        self._phases = [int(_seeds(seed, s.name).generate_state(1)[0]) for s in self.sources]
        self._streams = [Stream(s.rows, seed, s.name) for s in self.sources]

    def locate(self, position: int) -> Place:
        """Return the source, the row and the epoch of that source at a position, from 0 on."""
        segment = self._segment(position)
        source, index = interleave(position - segment.start, segment.row_shares, self._phases)
        row, epoch = self._streams[source].locate(segment.before[source] + index)
        return Place(source, row, epoch)

    def change(self, position: int, weights: Sequence[float]) -> None:
        """Take other weights from a position on, which is no earlier than that of a former change.

        Each source goes on where it is: rows that were shown do not come again before the others.
        """
        sources = [replace(s, weight=w) for s, w in zip(self.sources, weights, strict=True)]
        _check(sources)
        counts = self._counts(position)
        self._segments.append(_Segment(position, _row_shares(sources), counts))
        self.changes.append(Change(position, list(weights)))

    @property
    def shares(self) -> dict[str, float]:
        """The requested share of each source in the tokens, after the last change."""
        return self._token_shares(self._segments[-1].row_shares)

    def shares_after(self, positions: int) -> dict[str, float]:
        """Return the share of each source in the tokens of the first `positions` rows.

        Every row counts as many tokens as the mean row of its source.
        """
        return self._token_shares(self._counts(positions))

    @property
    def requested(self) -> dict[str, float]:
        """The share of each source in the tokens that was asked for, before any change."""
        return self._token_shares(self._segments[0].row_shares)

    def tokens_after(self, positions: int) -> dict[str, int]:
        """Return how many tokens of each source are in the first `positions` rows, as above."""
        tokens = self._tokens(self._counts(positions))
        return {s.name: round(n) for s, n in zip(self.sources, tokens, strict=True)}

    def _segment(self, position: int) -> _Segment:
        return next(each for each in reversed(self._segments) if each.start <= position)

    def _counts(self, positions: int) -> list[int]:
        """Count the rows of each source among the first `positions`."""
        segment = self._segment(positions)
        own = interleaved(positions - segment.start, segment.row_shares, self._phases)
        return [before + count for before, count in zip(segment.before, own, strict=True)]

    def _token_shares(self, rows: Sequence[int]) -> dict[str, float]:
        tokens = self._tokens(rows)
        total = math.fsum(tokens) or 1.0  # before the first position, all shares are 0
        return {s.name: n / total for s, n in zip(self.sources, tokens, strict=True)}

    def _tokens(self, rows: Sequence[int]) -> list[float]:
        return [n * (s.tokens / s.rows) for n, s in zip(rows, self.sources, strict=True)]


def interleave(position: int, shares: Sequence[int], phases: Sequence[int]) -> tuple[int, int]:
    """Return (source, index inside that source) at a position of a fixed, even interleaving.

    The first source takes its share of all positions as a balanced (Sturmian) word does, the second
    its share of the others, and so on: Lothaire, Algebraic Combinatorics on Words, 2002, ch. 2. The
    indices of each source run 0, 1, 2, … and after any n positions its count differs from n times
    its share by less than the number of sources. `shares` are integers with any positive sum;
    `phases`, in 0..2^32 - 1, shift where in its period a source comes. Integers only, so exact at
    any position.
    """
    remaining = sum(shares)
    for source, (share, phase) in enumerate(zip(shares, phases, strict=True)):
        before = _taken(position, share, phase, remaining)
        if _taken(position + 1, share, phase, remaining) > before:
            return source, before
        position -= before
        remaining -= share
    raise ConfigError(f"shares are {list(shares)}; expected at least one positive share")


def interleaved(positions: int, shares: Sequence[int], phases: Sequence[int]) -> list[int]:
    """Count how many of the first `positions` positions of `interleave` go to each source."""
    counts = []
    remaining = sum(shares)
    for share, phase in zip(shares, phases, strict=True):
        counts.append(_taken(positions, share, phase, remaining))
        positions -= counts[-1]
        remaining -= share
    return counts


def _taken(positions: int, share: int, phase: int, remaining: int) -> int:
    """Count how many of the first `positions` positions go to a source."""
    # int(): numpy integers of 64 bits would overflow in silence
    return (int(positions) * int(share) + (phase * int(remaining) >> 32)) // max(int(remaining), 1)


def _seeds(seed: int, name: str, *epoch: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((seed, crc32(name.encode()), *epoch))


def _row_shares(sources: Sequence[Source]) -> list[int]:
    """Turn shares of the tokens into shares of the rows, in integers."""
    weights = [s.weight for s in sources if s.weight is not None]
    if not weights:
        return [source.rows for source in sources]
    shares = [w * s.rows / s.tokens for w, s in zip(weights, sources, strict=True)]
    total = math.fsum(shares)
    return [max(round(share / total * UNIT), 1 if share else 0) for share in shares]


def _check(sources: Sequence[Source]) -> None:
    if not sources:
        raise ConfigError("data.sources is empty; expected data.path or at least one source")
    for source in sources:
        if source.rows < 1 or source.tokens < 1:
            message = f"data.sources.{source.name} gives {source.rows} rows"
            raise DataError(f"{message} with {source.tokens} tokens; expected at least one of each")
    weights = {f"data.sources.{source.name}.weight": source.weight for source in sources}
    given = [weight for weight in weights.values() if weight is not None]
    for key, weight in weights.items():
        if weight is None and given:
            raise ConfigError(f"{key} is missing; give a weight to every source or to none")
        if weight is not None and not 0 <= weight < math.inf:
            raise ConfigError(f"{key} is {weight}; expected a finite number, 0 or more")
    if given and not sum(given) > 0:
        raise ConfigError(f"{', '.join(weights)} are all 0; make at least one positive")
