"""Examples of unequal length become one batch of tensors."""
# B rows of the batch, T tokens of the longest row

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ontogeny.data.packing import positions
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.objective import Batch, Example

# What stands in the padded part of a column; 0 elsewhere. Padding is known by `attention_mask`
# or `labels`, never by the id of a token: many tokenizers pad with their end-of-text token.
PADDING = {"labels": IGNORED}


def collate_tokens(examples: Sequence[Example]) -> Batch:
    """Pad every per-token column on the right and stack it: [B, T] int64 or float32 tensors.

    Columns of K values for each token become [B, T, K].
    Columns of one value per example become [B]. `attention_mask` (1 real, 0 padding) is added
    when a row was padded, and `position_ids` where `branch_ids` say that they are not the places
    in the row. Raises ValueError when columns differ between examples.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    if "branch_ids" in examples[0] and "position_ids" not in examples[0]:
        examples = [{**example, "position_ids": positions(example)} for example in examples]
    batch = {name: _stack(examples, name, max(lengths)) for name in examples[0]}
    if min(lengths) < max(lengths):
        positions_T = torch.arange(max(lengths))
        batch["attention_mask"] = (positions_T < torch.tensor(lengths)[:, None]).long()
    return batch


def pad_row(example: Example, length: int) -> Example:
    """Pad the per-token columns of a packed row; the padding is a document of its own."""
    tokens = len(example["input_ids"])
    missing = length - tokens
    if missing == 0:
        return example
    row = dict(example)
    for name, column in example.items():
        if column.ndim and len(column) == tokens:
            shape = (missing, *column.shape[1:])
            padding = np.full(shape, PADDING.get(name, 0), column.dtype)
            row[name] = np.concatenate([column, padding])
    row["position_ids"][-missing:] = np.arange(missing)
    row["document_ids"][-missing:] = example["document_ids"].max() + 1
    return row


def _stack(examples: Sequence[Example], name: str, longest: int) -> torch.Tensor:
    columns = [np.asarray(example[name]) for example in examples]
    if all(column.ndim == 0 for column in columns):
        return _tensor(np.stack(columns))
    shape = (len(columns), longest, *columns[0].shape[1:])
    stacked = np.full(shape, PADDING.get(name, 0), columns[0].dtype)
    for row, column in zip(stacked, columns, strict=True):
        row[: len(column)] = column
    return _tensor(stacked)


def _tensor(array: np.ndarray) -> torch.Tensor:
    kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
    return torch.from_numpy(array.astype(kind))
