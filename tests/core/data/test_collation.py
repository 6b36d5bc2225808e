"""Rows of unequal length become one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.data.collation import collate_tokens, pad_row
from ontogeny.data.packing import pack


def row(*ids: int, **columns: np.ndarray) -> dict[str, np.ndarray]:
    tokens = np.array(ids, np.int32)
    return {"input_ids": tokens, "labels": tokens + 1, **columns}


def test_rows_of_one_length_are_stacked_without_a_mask() -> None:
    batch = collate_tokens([row(1, 2), row(3, 4)])
    assert batch.keys() == {"input_ids", "labels"}
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert batch["input_ids"].dtype == torch.int64


def test_shorter_rows_are_padded_on_the_right_and_masked() -> None:
    batch = collate_tokens([row(1, 2, 3), row(4)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["labels"].tolist() == [[2, 3, 4], [5, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_one_value_per_row_becomes_one_value_per_row() -> None:
    batch = collate_tokens([row(1, score=np.array(0.5)), row(2, 3, score=np.array(1.5))])
    assert batch["score"].tolist() == [0.5, 1.5]
    assert batch["score"].dtype == torch.float32


def test_floats_per_token_are_padded_with_zero() -> None:
    batch = collate_tokens([row(1, w=np.array([0.5])), row(2, 3, w=np.array([1.0, 2.0]))])
    assert batch["w"].tolist() == [[0.5, 0.0], [1.0, 2.0]]


def test_the_rows_stay_as_they_were() -> None:
    rows = [row(1, 2, 3), row(4)]
    collate_tokens(rows)["input_ids"][:] = 9
    assert rows[0]["input_ids"].tolist() == [1, 2, 3]


def test_rows_of_other_columns_are_refused() -> None:
    with pytest.raises(KeyError, match="labels"):
        collate_tokens([row(1), {"input_ids": np.array([1])}])


def test_the_padding_of_a_packed_row_is_a_document_of_its_own() -> None:
    padded = pad_row(pack([row(1, 2, 3), row(4, 5)]), 8)
    assert padded["input_ids"].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert padded["labels"].tolist() == [2, 3, 4, 5, 6, -100, -100, -100]
    assert padded["document_ids"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert padded["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_a_full_row_is_left_as_it_is() -> None:
    packed = pack([row(1, 2), row(3)])
    assert pad_row(packed, 3) is packed


def test_one_value_per_document_is_not_padded() -> None:
    score = np.array(0.5, np.float32)
    padded = pad_row(pack([row(1, 2, score=score), row(3, score=score)]), 6)
    assert padded["score"].tolist() == [0.5, 0.5]


def test_padding_changes_no_type() -> None:
    packed = pack([row(1, 2)])
    padded = pad_row(packed, 4)
    assert {name: column.dtype for name, column in padded.items()} == {
        name: column.dtype for name, column in packed.items()
    }
