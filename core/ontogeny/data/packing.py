"""Short pieces share rows: best-fit decreasing, a 1-D bin packing (Johnson et al., 1974)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.data.examples import TOKENS
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ontogeny.objective import Example

# N examples, S spans, K bins, L length, R room that is left in a bin


@dataclass(frozen=True, eq=False)
class Bins:
    """Which spans share a packed row: bin i holds the spans `order[offsets[i]:offsets[i + 1]]`."""

    order: np.ndarray  # int64, [S]
    offsets: np.ndarray  # int64, [K + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the spans of one bin, longest first."""
        index = range(len(self))[index]
        return self.order[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def split_spans(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Cut every example into consecutive pieces of at most `max_length`.

    Returns int64 [S, 3]: (example, start, stop), in the order of the examples.
    """
    lengths_N = np.asarray(lengths, np.int64)
    pieces_N = -(-lengths_N // max_length)
    example_S = np.repeat(np.arange(len(lengths_N)), pieces_N)
    first_N = np.cumsum(pieces_N) - pieces_N
    start_S = (np.arange(len(example_S)) - first_N[example_S]) * max_length
    stop_S = np.minimum(start_S + max_length, lengths_N[example_S])
    return np.stack([example_S, start_S, stop_S], axis=1)


def whole_spans(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, int]:
    """Make one span of every example, cut off at `max_length`, and count those that were cut."""
    lengths_N = np.asarray(lengths, np.int64)
    example_N = np.arange(len(lengths_N))
    stop_N = np.minimum(lengths_N, max_length)
    spans = np.stack([example_N, np.zeros_like(example_N), stop_N], axis=1)
    return spans, int(np.count_nonzero(lengths_N > max_length))


def best_fit_bins(span_lengths: np.ndarray, capacity: int) -> Bins:
    """Put each span, longest first, into the fullest bin that still has room for it.

    Equally long spans go in their given order; of equally full bins, the one that became so first
    is taken. At most 11/9 of the best possible number of bins, plus one. Raises DataError unless
    every length is in 1..capacity.
    """
    length_S = np.asarray(span_lengths, np.int64)
    if length_S.size and not 1 <= length_S.min() <= length_S.max() <= capacity:
        message = f"spans are {length_S.min()} to {length_S.max()} tokens long"
        raise DataError(f"{message}; expected 1..{capacity}: split or truncate them first")
    longest_first_S = np.argsort(-length_S, kind="stable")
    lengths, counts = np.unique(length_S, return_counts=True)
    bins = _OpenBins(capacity)
    for length, count in zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        bins.place(length, count)
    bin_S = np.array(bins.bin_of, np.int64)
    sizes_K = np.bincount(bin_S, minlength=bins.count)
    order_S = longest_first_S[np.argsort(bin_S, kind="stable")]
    return Bins(order_S, np.concatenate([[0], np.cumsum(sizes_K)]))


class _OpenBins:
    """All bins, grouped by the room R that is left in them.

    The spans of one length come together. A bin that took one of them is the fullest that may fit
    the next, so it goes on taking them until none fits; and all bins with the same room do alike.
    So one step fills a whole group, and there are far fewer steps than spans.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.bin_of: list[int] = []  # of each span, in the order in which they are placed
        self.with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # R -> bins
        self.rooms = 0  # bit R is set where with_room[R] has bins

    def place(self, length: int, count: int) -> None:
        """Place `count` spans of the same length."""
        while count and (fitting := self.rooms >> length):
            room = length + (fitting & -fitting).bit_length() - 1  # the lowest bit: the fullest
            bins = self.with_room[room]
            self.with_room[room] = []
            self.rooms ^= 1 << room
            count -= self._fill(bins, room, length, count)
        if count:
            new_bins = -(-count // (self.capacity // length))
            self._fill(range(self.count, self.count + new_bins), self.capacity, length, count)
            self.count += new_bins

    def _fill(self, bins: Sequence[int], room: int, length: int, count: int) -> int:
        """Fill bins of one room, in their order, with up to `count` spans; return how many."""
        each = room // length
        full = min(len(bins), count // each)
        rest = count - full * each if full < len(bins) else 0
        self.bin_of += chain.from_iterable(zip(*repeat(bins[:full], each), strict=True))
        self._keep(bins[:full], room - each * length)
        if rest:
            self.bin_of += repeat(bins[full], rest)
            self._keep(bins[full : full + 1], room - rest * length)
        self._keep(bins[full + bool(rest) :], room)
        return full * each + rest

    def _keep(self, bins: Sequence[int], room: int) -> None:
        if bins and room:
            self.with_room[room] += bins
            self.rooms |= 1 << room


def pack(pieces: Sequence[Example]) -> Example:
    """Join pieces into one row: per-token columns end to end, scalars as one value per piece.

    Adds `position_ids`, which restart at 0 in every piece, and `document_ids` (0, 1, … one per
    piece), both int32. Raises DataError for a column that is neither per token nor a scalar.
    """
    lengths = [len(piece[TOKENS]) for piece in pieces]
    row = {name: _join(name, [piece[name] for piece in pieces], lengths) for name in pieces[0]}
    row["position_ids"] = np.concatenate([positions(piece) for piece in pieces])
    row["document_ids"] = np.repeat(np.arange(len(pieces), dtype=np.int32), lengths)
    return row


def positions(piece: Example) -> np.ndarray:
    """Return the position of each token in its text: int32, [T].

    With `branch_ids`, every branch goes on from what is shared (branch 0, which comes first).
    """
    places_T = np.arange(len(piece[TOKENS]), dtype=np.int32)
    if "branch_ids" not in piece:
        return places_T
    branch_T = piece["branch_ids"]
    shared = np.count_nonzero(branch_T == 0)
    for branch in np.unique(branch_T[branch_T != 0]):
        own_T = branch_T == branch
        places_T[own_T] = shared + np.arange(np.count_nonzero(own_T), dtype=np.int32)
    return places_T


def _join(name: str, columns: list[np.ndarray], lengths: list[int]) -> np.ndarray:
    if all(column.ndim == 0 for column in columns):
        return np.stack(columns)
    for column, length in zip(columns, lengths, strict=True):
        if column.shape[:1] != (length,):
            message = f"column {name} has shape {column.shape} in a piece of {length} tokens"
            raise DataError(
                f"{message}; packing needs one value, or K, per token or one per example"
            )
    return np.concatenate(columns)
