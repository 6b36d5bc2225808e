"""Packing: nothing is lost, no row is too long, and it is best-fit decreasing to the letter."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from ontogeny.data.packing import Bins, best_fit_bins, pack, split_spans, whole_spans
from ontogeny.errors import DataError

RANDOM_SETS = [
    ("uniform", 64),
    ("uniform", 1000),
    ("lognormal", 256),
    ("lognormal", 2048),
    ("thirds", 999),
    ("short", 4096),
]


def random_lengths(kind: str, capacity: int, count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    lengths: np.ndarray = {
        "uniform": random.integers(1, capacity + 1, count),
        "lognormal": np.ceil(random.lognormal(math.log(capacity / 6), 1, count)),
        "thirds": random.integers(capacity // 4, capacity // 2, count),
        "short": random.integers(1, 40, count),
    }[kind]
    return lengths.clip(1, capacity).astype(np.int64)


def naive_best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Place span after span, looking at every bin; of equals, the first to have become so."""
    bins: list[list[int]] = []
    room: list[int] = []
    changed: list[int] = []
    order = sorted(range(len(lengths)), key=lambda span: -lengths[span])
    for now, span in enumerate(order):
        fitting = [b for b in range(len(bins)) if room[b] >= lengths[span]]
        if not fitting:
            fitting = [len(bins)]
            bins.append([])
            room.append(capacity)
            changed.append(now)
        best = min(fitting, key=lambda b: (room[b], changed[b]))
        bins[best].append(span)
        room[best] -= lengths[span]
        changed[best] = now
    return bins


def fill(bins: Bins, lengths: np.ndarray) -> list[int]:
    return [int(lengths[spans].sum()) for spans in bins]


@pytest.mark.parametrize(("kind", "capacity"), RANDOM_SETS)
def test_every_span_is_in_exactly_one_bin(kind: str, capacity: int) -> None:
    bins = best_fit_bins(random_lengths(kind, capacity, 3000), capacity)
    assert sorted(bins.order.tolist()) == list(range(3000))
    assert (bins.offsets[0], bins.offsets[-1]) == (0, 3000)
    assert (np.diff(bins.offsets) > 0).all()


@pytest.mark.parametrize(("kind", "capacity"), RANDOM_SETS)
def test_no_bin_holds_more_than_its_capacity(kind: str, capacity: int) -> None:
    lengths = random_lengths(kind, capacity, 3000)
    assert max(fill(best_fit_bins(lengths, capacity), lengths)) <= capacity


@pytest.mark.parametrize(("kind", "capacity"), RANDOM_SETS)
def test_bins_are_at_most_eleven_ninths_of_the_optimum_plus_one(kind: str, capacity: int) -> None:
    lengths = random_lengths(kind, capacity, 3000)
    optimum_at_least = math.ceil(lengths.sum() / capacity)
    assert len(best_fit_bins(lengths, capacity)) <= 11 / 9 * optimum_at_least + 1


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("kind", "capacity"), [("uniform", 12), ("uniform", 60), ("short", 100)])
def test_bins_are_those_of_the_naive_algorithm(kind: str, capacity: int, seed: int) -> None:
    lengths = random_lengths(kind, capacity, 150, seed)
    bins = best_fit_bins(lengths, capacity)
    expected = naive_best_fit_decreasing(lengths.tolist(), capacity)
    assert [spans.tolist() for spans in bins] == expected


def test_a_worked_example() -> None:
    # 7 | 6 | 5 in a third bin; 4 fits best beside 6, 3 beside 7, 2 beside 5, 2 again beside 5
    bins = best_fit_bins(np.array([2, 5, 7, 3, 6, 4, 2]), capacity=10)
    assert [spans.tolist() for spans in bins] == [[2, 3], [4, 5], [1, 0, 6]]


def test_log_normal_lengths_fill_more_than_95_percent() -> None:
    lengths = np.ceil(np.random.default_rng(1).lognormal(5.5, 1.2, 20_000)).astype(np.int64)
    spans = split_spans(lengths, 2048)
    bins = best_fit_bins(spans[:, 2] - spans[:, 1], 2048)
    assert lengths.sum() / (len(bins) * 2048) > 0.95


def test_no_spans_need_no_bins() -> None:
    bins = best_fit_bins(np.array([], np.int64), 8)
    assert (len(bins), list(bins)) == (0, [])


def test_bins_count_from_the_end_and_stop() -> None:
    bins = best_fit_bins(np.array([8, 8, 3]), 8)
    assert bins[-1].tolist() == [2]
    with pytest.raises(IndexError):
        bins[3]


@pytest.mark.parametrize("lengths", [[3, 9], [0, 4]])
def test_a_span_that_fits_no_bin_is_refused(lengths: list[int]) -> None:
    with pytest.raises(DataError, match=r"expected 1\.\.8"):
        best_fit_bins(np.array(lengths), 8)


def test_a_million_spans_are_packed_in_seconds() -> None:
    lengths = random_lengths("lognormal", 2048, 1_000_000)
    start = time.perf_counter()
    bins = best_fit_bins(lengths, 2048)
    print(f"1,000,000 spans into {len(bins):,} bins: {time.perf_counter() - start:.2f} s")  # noqa: T201
    assert len(bins.order) == 1_000_000


def test_splitting_cuts_consecutive_pieces() -> None:
    assert split_spans(np.array([5, 4, 0, 9]), 4).tolist() == [
        [0, 0, 4],
        [0, 4, 5],
        [1, 0, 4],
        [3, 0, 4],
        [3, 4, 8],
        [3, 8, 9],
    ]


def test_splitting_loses_no_token() -> None:
    lengths = random_lengths("lognormal", 500, 2000)
    spans = split_spans(lengths, 64)
    per_example = np.bincount(spans[:, 0], weights=spans[:, 2] - spans[:, 1])
    assert np.array_equal(per_example, lengths)


def test_whole_spans_count_what_they_truncate() -> None:
    spans, truncated = whole_spans(np.array([5, 4, 9]), 4)
    assert spans.tolist() == [[0, 0, 4], [1, 0, 4], [2, 0, 4]]
    assert truncated == 2


def test_packing_joins_pieces_and_says_where_each_begins() -> None:
    row = pack(
        [
            {
                "input_ids": np.array([1, 2, 3], np.int32),
                "labels": np.array([2, 3, -100], np.int32),
            },
            {"input_ids": np.array([7, 8], np.int32), "labels": np.array([8, -100], np.int32)},
        ]
    )
    assert {name: column.tolist() for name, column in row.items()} == {
        "input_ids": [1, 2, 3, 7, 8],
        "labels": [2, 3, -100, 8, -100],
        "position_ids": [0, 1, 2, 0, 1],
        "document_ids": [0, 0, 0, 1, 1],
    }
    assert {column.dtype for column in row.values()} == {np.dtype(np.int32)}


def test_packing_keeps_one_scalar_per_piece() -> None:
    pieces = [{"input_ids": np.array([1, 2]), "score": np.array(score)} for score in (0.5, 2.0)]
    assert pack(pieces)["score"].tolist() == [0.5, 2.0]


def test_packing_refuses_a_column_that_is_neither_per_token_nor_a_scalar() -> None:
    pieces = [{"input_ids": np.array([1, 2]), "tags": np.array([1, 2, 3])}]
    with pytest.raises(DataError, match=r"column tags has shape \(3,\) in a piece of 2 tokens"):
        pack(pieces)


def test_branches_go_on_from_the_position_of_what_they_share() -> None:
    branched = {
        "input_ids": np.arange(7, dtype=np.int32),
        "branch_ids": np.array([0, 0, 1, 1, 1, 2, 2], np.int32),
    }
    plain = {
        "input_ids": np.arange(3, dtype=np.int32),
        "branch_ids": np.zeros(3, np.int32),
    }
    row = pack([branched, plain])
    assert row["position_ids"].tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2]
    assert row["branch_ids"].tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 0, 0]
