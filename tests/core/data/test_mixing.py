"""Mixing: a pure function of the position that keeps its promised shares everywhere."""

from __future__ import annotations

import math
import pickle
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from ontogeny.data.mixing import UNIT, Mixture, Source, Stream, interleave, interleaved
from ontogeny.errors import ConfigError, DataError

SHARES = [
    [UNIT],
    [UNIT // 2, UNIT // 2],
    [round(0.9 * UNIT), round(0.1 * UNIT)],
    [1, 10, 100],
    [17, 5, 5, 2, 1, 1, 1],
    [3, 0, 4, 0],
]
PHASES = [0, UNIT // 2, UNIT - 1, 12345, 987654321, 1, 4000000000]


@pytest.mark.parametrize("shares", SHARES)
def test_every_prefix_is_closer_to_its_shares_than_the_number_of_sources(shares: list[int]) -> None:
    counts = np.zeros(len(shares))
    for position in range(3000):
        source, _ = interleave(position, shares, PHASES[: len(shares)])
        counts[source] += 1
        requested = np.array(shares) / sum(shares) * (position + 1)
        assert np.abs(counts - requested).max() < len(shares)


@pytest.mark.parametrize("shares", SHARES)
def test_the_indices_of_each_source_have_no_gap(shares: list[int]) -> None:
    indices: list[list[int]] = [[] for _ in shares]
    for position in range(3000):
        source, index = interleave(position, shares, PHASES[: len(shares)])
        indices[source].append(index)
    assert all(seen == list(range(len(seen))) for seen in indices)


@pytest.mark.parametrize("shares", SHARES)
def test_counting_positions_agrees_with_walking_them(shares: list[int]) -> None:
    phases = PHASES[: len(shares)]
    walked = Counter(interleave(position, shares, phases)[0] for position in range(777))
    assert interleaved(777, shares, phases) == [walked[source] for source in range(len(shares))]


def test_one_source_alone_comes_in_a_balanced_word() -> None:
    gaps = pairwise(p for p in range(5000) if interleave(p, [3, 7], [0, 0])[0] == 0)
    assert {second - first for first, second in gaps} == {3, 4}  # 10 / 3, rounded down or up


def test_shares_without_a_positive_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one positive share"):
        interleave(0, [0, 0], [0, 0])


def test_an_epoch_of_a_stream_is_a_permutation() -> None:
    stream = Stream(rows=50, seed=1, name="a")
    rows, epochs = zip(*(stream.locate(index) for index in range(100)), strict=True)
    assert sorted(rows[:50]) == sorted(rows[50:]) == list(range(50))
    assert rows[:50] != rows[50:]
    assert epochs == (0,) * 50 + (1,) * 50


def test_a_stream_is_a_pure_function_of_the_index() -> None:
    forward = Stream(rows=7, seed=1, name="a")
    backward = Stream(rows=7, seed=1, name="a")
    expected = [forward.locate(index) for index in range(70)]
    assert [backward.locate(index) for index in reversed(range(70))] == expected[::-1]


@pytest.mark.parametrize("other", [Stream(50, 2, "a"), Stream(50, 1, "b")])
def test_streams_of_another_seed_or_name_have_another_order(other: Stream) -> None:
    stream = Stream(rows=50, seed=1, name="a")
    assert [stream.locate(i) for i in range(50)] != [other.locate(i) for i in range(50)]


def test_a_stream_keeps_the_permutations_of_two_epochs() -> None:
    stream = Stream(rows=1_000_000, seed=0, name="a")
    start = time.perf_counter()
    for index in range(3000):
        stream.locate(index % 2 * 1_000_000 + index)
    assert time.perf_counter() - start < 5  # 3,000 permutations would take over half a minute


def test_without_weights_an_epoch_shows_every_row_exactly_once() -> None:
    mixture = Mixture([Source("a", 30, 900), Source("b", 7, 50), Source("c", 1, 4)], seed=3)
    places = [mixture.locate(position) for position in range(mixture.rows)]
    rows = sorted((place.source, place.row) for place in places)
    assert rows == [(s, row) for s, count in enumerate([30, 7, 1]) for row in range(count)]
    assert {place.epoch for place in places} == {0}


def test_token_shares_are_realised_though_rows_differ_in_length() -> None:
    random = np.random.default_rng(0)
    lengths = [random.integers(900, 1025, 6000), np.ceil(random.lognormal(4, 0.8, 4000))]
    sources = [
        Source(name, len(rows), int(rows.sum()), weight)
        for name, rows, weight in zip(("domain", "replay"), lengths, (0.9, 0.1), strict=True)
    ]
    mixture = Mixture(sources, seed=0)
    tokens = [0.0, 0.0]
    for position in range(10_000):
        place = mixture.locate(position)
        tokens[place.source] += lengths[place.source][place.row]
    assert tokens[1] / sum(tokens) == pytest.approx(0.1, rel=0.01)
    # two epochs of replay average the whole source; what is left is a sample of the third
    count = mixture_count(mixture, 10_000, "replay")
    sigma = math.sqrt(count) * lengths[1].std()
    assert abs(tokens[1] - count * lengths[1].mean()) < 3 * sigma


def mixture_count(mixture: Mixture, positions: int, name: str) -> int:
    sources = [mixture.sources[mixture.locate(p).source].name for p in range(positions)]
    return sources.count(name)


def test_row_shares_are_weights_over_the_mean_tokens_of_a_row() -> None:
    # equal token shares, rows of 100 and of 25 tokens: 1 row of the first per 4 of the second
    mixture = Mixture([Source("a", 10, 1000, 1.0), Source("b", 8, 200, 1.0)], seed=0)
    assert mixture_count(mixture, 5000, "a") == 1000


def test_weights_have_no_unit() -> None:
    percent = Mixture([Source("a", 9, 80, 90.0), Source("b", 5, 31, 10.0)], seed=0)
    fraction = Mixture([Source("a", 9, 80, 0.9), Source("b", 5, 31, 0.1)], seed=0)
    assert [percent.locate(p) for p in range(500)] == [fraction.locate(p) for p in range(500)]


def test_requested_shares_are_the_weights() -> None:
    mixture = Mixture([Source("a", 10, 1000, 3.0), Source("b", 8, 200, 1.0)], seed=0)
    assert mixture.shares == pytest.approx({"a": 0.75, "b": 0.25})


def test_requested_shares_without_weights_are_the_tokens() -> None:
    mixture = Mixture([Source("a", 10, 900), Source("b", 8, 100)], seed=0)
    assert mixture.shares == pytest.approx({"a": 0.9, "b": 0.1})
    assert (mixture.rows, mixture.tokens) == (18, 1000)


def test_realised_shares_count_rows_at_their_mean_length() -> None:
    mixture = Mixture([Source("a", 10, 1000, 1.0), Source("b", 8, 200, 1.0)], seed=0)
    count = mixture_count(mixture, 33, "a")
    expected = count * 100 / (count * 100 + (33 - count) * 25)
    assert mixture.shares_after(33) == pytest.approx({"a": expected, "b": 1 - expected})
    assert mixture.shares_after(10**12) == pytest.approx({"a": 0.5, "b": 0.5})


def test_realised_shares_before_the_first_row_are_zero() -> None:
    assert Mixture([Source("a", 1, 1)], seed=0).shares_after(0) == {"a": 0.0}


def test_a_single_source_is_its_own_stream() -> None:
    mixture = Mixture([Source("a", 20, 300, 5.0)], seed=4)
    stream = Stream(rows=20, seed=4, name="a")
    assert [mixture.locate(p)[1:] for p in range(60)] == [stream.locate(p) for p in range(60)]


def test_a_weight_of_zero_leaves_a_source_out() -> None:
    mixture = Mixture([Source("a", 20, 300, 1.0), Source("b", 20, 300, 0.0)], seed=4)
    assert mixture_count(mixture, 1000, "b") == 0


def test_a_tiny_weight_is_not_rounded_away() -> None:
    mixture = Mixture([Source("a", 1, 1, 1.0), Source("b", 1, 1, 1e-12)], seed=0)
    assert mixture.shares["b"] > 0


def test_the_same_seed_gives_the_same_order() -> None:
    first, again = mixture_of_two(seed=5), mixture_of_two(seed=5)
    assert [first.locate(p) for p in range(300)] == [again.locate(p) for p in range(300)]


def test_another_seed_gives_another_order_of_rows_and_of_sources() -> None:
    first, other = mixture_of_two(seed=5), mixture_of_two(seed=6)
    assert [first.locate(p) for p in range(300)] != [other.locate(p) for p in range(300)]
    assert [first.locate(p)[0] for p in range(300)] != [other.locate(p)[0] for p in range(300)]


def mixture_of_two(seed: int) -> Mixture:
    return Mixture([Source("a", 60, 900, 0.7), Source("b", 40, 300, 0.3)], seed)


def test_a_position_of_a_trillion_is_found_at_once() -> None:
    start = time.perf_counter()
    place = mixture_of_two(seed=0).locate(10**12)
    assert time.perf_counter() - start < 1
    assert place.epoch > 10**9


def test_a_pickled_mixture_is_small_and_goes_on_alike() -> None:
    mixture = Mixture([Source("a", 100_000, 10**7)], seed=0)
    place = mixture.locate(123_456)
    pickled = pickle.dumps(mixture)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).locate(123_456) == place


def test_numpy_counts_do_not_overflow() -> None:
    lengths = np.full(1000, 7)
    mixture = Mixture([Source("a", np.int64(1000), lengths.sum())], seed=0)  # type: ignore[arg-type]
    assert mixture.locate(10**18).epoch == 10**15
    assert mixture.locate(np.int64(10**18)) == mixture.locate(10**18)  # type: ignore[arg-type]
    assert mixture.shares_after(10**18) == {"a": 1.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, None), "data.sources.b.weight is missing"),
        ((-0.1, 1.0), "data.sources.a.weight is -0.1; expected"),
        ((1.0, math.nan), "data.sources.b.weight is nan; expected"),
        ((math.inf, 1.0), "data.sources.a.weight is inf; expected"),
        ((0.0, 0.0), "data.sources.a.weight, data.sources.b.weight are all 0"),
    ],
)
def test_weights_that_make_no_mixture_are_named(
    weights: tuple[float | None, float | None], message: str
) -> None:
    sources = [Source(n, 5, 50, w) for n, w in zip("ab", weights, strict=True)]
    with pytest.raises(ConfigError, match=message):
        Mixture(sources, seed=0)


def test_a_source_without_rows_is_named() -> None:
    with pytest.raises(DataError, match=r"data\.sources\.b gives 0 rows with 0 tokens"):
        Mixture([Source("a", 5, 50), Source("b", 0, 0)], seed=0)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources is empty"):
        Mixture([], seed=0)


def changed_mixture() -> Mixture:
    mixture = Mixture(
        [
            Source("domain", 50, 5000, 0.9),
            Source("general", 40, 4000, 0.1),
            Source("other", 9, 9, 0),
        ],
        seed=3,
    )
    mixture.change(100, [0.5, 0.5, 0])
    mixture.change(160, [0.0, 0.5, 0.5])
    return mixture


def test_a_change_of_weights_holds_from_its_position_on() -> None:
    mixture = changed_mixture()
    counts = [
        Counter(mixture.locate(position).source for position in span)
        for span in (range(100), range(100, 160), range(160, 1160))
    ]
    assert abs(counts[0][0] - 90) <= 2
    assert abs(counts[1][1] - 30) <= 2
    assert counts[2][0] == 0


def test_before_a_change_nothing_is_another() -> None:
    mixture = changed_mixture()
    plain = Mixture(mixture.sources, seed=3)
    places = [mixture.locate(position) for position in range(100)]
    assert places == [plain.locate(position) for position in range(100)]


def test_after_a_change_each_source_goes_on_where_it_was() -> None:
    mixture = changed_mixture()
    places = [mixture.locate(position) for position in range(400)]
    for source, rows in ((0, 50), (1, 40)):
        seen = [place.row for place in places if place.source == source][:rows]
        assert len(set(seen)) == len(seen)


def test_shares_after_a_change_count_what_came_before_it() -> None:
    mixture = changed_mixture()
    counted = Counter(mixture.locate(position).source for position in range(150))
    shares = mixture.shares_after(150)
    assert shares["domain"] == pytest.approx(counted[0] / 150)
    assert shares["other"] == 0


def test_a_change_is_kept_as_plain_numbers() -> None:
    assert changed_mixture().changes == [(100, [0.5, 0.5, 0]), (160, [0.0, 0.5, 0.5])]


def test_a_source_of_weight_zero_is_no_part_of_an_epoch() -> None:
    mixture = Mixture([Source("a", 10, 100, 1.0), Source("b", 30, 300, 0.0)], seed=0)
    assert (mixture.rows, mixture.tokens) == (10, 100)
