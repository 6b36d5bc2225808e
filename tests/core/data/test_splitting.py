from __future__ import annotations

import math
from datetime import UTC, datetime
from hashlib import blake2b

from ontogeny.data.splitting import is_held_out, row_key

ROWS = [{"text": f"row number {number}"} for number in range(20_000)]


def test_the_share_is_within_three_standard_deviations() -> None:
    for share in (0.05, 0.5):
        held_out = sum(is_held_out(row, share) for row in ROWS)
        deviation = math.sqrt(len(ROWS) * share * (1 - share))
        assert abs(held_out - share * len(ROWS)) < 3 * deviation


def test_nothing_or_everything_is_held_out_at_the_ends() -> None:
    assert not any(is_held_out(row, 0.0) for row in ROWS)
    assert all(is_held_out(row, 1.0) for row in ROWS)


def test_the_order_of_rows_and_of_columns_does_not_count() -> None:
    forwards = {row["text"] for row in ROWS if is_held_out(row, 0.05)}
    backwards = {row["text"] for row in reversed(ROWS) if is_held_out(row, 0.05)}
    assert forwards == backwards
    assert row_key({"a": 1, "b": {"c": 2, "d": 3}}) == row_key({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_larger_share_holds_out_what_a_smaller_one_does() -> None:
    small = {row["text"] for row in ROWS if is_held_out(row, 0.05)}
    assert small < {row["text"] for row in ROWS if is_held_out(row, 0.1)}


def test_another_seed_holds_out_other_rows() -> None:
    both = sum(is_held_out(row, 0.5, seed=0) and is_held_out(row, 0.5, seed=-1) for row in ROWS)
    assert abs(both - 5_000) < 3 * math.sqrt(20_000 * 0.25 * 0.75)


def test_rows_with_one_prompt_stay_together() -> None:
    prompt = {"prompt": "What is it?"}
    assert row_key(prompt) == row_key({**prompt, "chosen": "a", "rejected": "b"})
    assert row_key(prompt) == row_key({**prompt, "text": None, "completion": "a"})


def test_columns_beside_the_text_do_not_count() -> None:
    assert row_key({"text": "a", "label": 1}) == row_key({"text": "a", "label": 2})


def test_a_row_without_text_or_prompt_counts_as_a_whole() -> None:
    turns = [{"role": "user", "content": "a"}]
    assert row_key({"messages": turns}) != row_key({"messages": turns, "label": 1})


def test_the_key_is_blake2b_of_canonical_json() -> None:
    assert row_key({"text": "é"}) == blake2b(rb'"\u00e9"', digest_size=16).digest()


def test_values_that_json_lacks_have_a_key_too() -> None:
    row = {"when": datetime(2026, 1, 1, tzinfo=UTC), "raw": b"\xff"}
    assert row_key(row) == row_key(dict(row))
