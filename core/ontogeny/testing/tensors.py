"""Comparing what models return, and what batches hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.attention import decoder_writes, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.seeding import derive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.objective import Batch

Outputs = dict[str, Tensor]


def outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Outputs:
    """Return what a model makes of two rows of random tokens, without dropout."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        batch = _batch(len(tokenizer))
        if decoder_writes(model):
            batch["decoder_input_ids"] = batch["input_ids"].flip(1)
        found = model(**model_inputs(model, batch))
    for module, training in modes.items():
        module.training = training
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Return the largest difference relative to the largest value; infinite for other shapes."""
    shapes = [{name: value.shape for name, value in each.items()} for each in (left, right)]
    if shapes[0] != shapes[1]:
        return float("inf")
    return max((_relative(left[name], right[name]) for name in left), default=0.0)


def equal_batches(left: Batch, right: Batch) -> bool:
    """Say whether two batches hold the same bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def _relative(left: Tensor, right: Tensor) -> float:
    if left.numel() == 0 or torch.equal(left, right):
        return 0.0
    largest = max(float(left.abs().max()), float(right.abs().max()), 1e-12)
    moved = float((left.double() - right.double()).abs().max()) / largest
    return moved if moved == moved else float("inf")  # noqa: PLR0124  only a NaN differs from itself


def _batch(vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(derive("tokens"))
    ids_BT = torch.randint(vocabulary, (2, 24), generator=generator)
    return collate_tokens([{"input_ids": ids_T.numpy()} for ids_T in ids_BT])
