"""Batches of pairs, and the log-probabilities of both answers of each.

A batch says of every scored token which pair and which side it belongs to; what a model is shown is
one row with two branches for each pair, several packed into one, or two rows for each pair. Scored
tokens come in the same order in all of these.
"""
# B rows, T tokens, N scored tokens, P pairs

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ontogeny.attention import model_inputs
from ontogeny.chat.pairs import CHOSEN, apart
from ontogeny.data.collation import collate_tokens
from ontogeny.objective import IGNORED
from ontogeny.output_layer import label_states
from ontogeny.vocabulary_loss import state_log_probs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ontogeny.objective import Batch, Example
    from ontogeny.output_layer import OutputLayer

INPUTS = ("input_ids", "labels", "branch_ids", "document_ids", "position_ids", "attention_mask")
NO_PAIR = -1


def collate_pairs(examples: Sequence[Example], *, share_prompt: bool) -> Batch:
    """Return a batch whose `pair_ids` [B, T] number the pairs; `pairs` is of shape [P].

    Without `share_prompt`, `input_ids` and `labels` are [2B, T]: the chosen row of each pair, and
    its rejected row.
    """
    together = collate_tokens(examples)
    numbers = np.full(together["labels"].shape, NO_PAIR)
    count = 0
    for row, example in enumerate(examples):
        documents = example.get("document_ids", np.zeros(len(example["labels"]), np.int32))
        scored = np.flatnonzero(example["labels"] != IGNORED)
        _, owners = np.unique(documents[scored], return_inverse=True)
        numbers[row, scored] = count + owners
        count += int(owners.max(initial=-1)) + 1
    sides = {"pair_ids": torch.from_numpy(numbers), "pairs": torch.ones(count)}
    if share_prompt:
        return {**together, **sides}
    kept = {name: value for name, value in together.items() if name not in INPUTS}
    rows = collate_tokens([part for example in examples for part in apart(example)])
    return {**rows, **kept, **sides, "side_ids": together["branch_ids"]}


def token_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, OutputLayer]:
    """Return what predicts the scored tokens, [N, D], these tokens, [N], and the output layer."""
    return label_states(model, model_inputs(model, batch), batch["labels"])


def token_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """Return log p of every scored token: [N]."""
    return state_log_probs(*token_states(model, batch))


def in_place(values_N: Tensor, batch: Batch) -> Tensor:
    """Return values of the scored tokens where these stand in the examples' rows: [B, T]."""
    pairs_BT = batch["pair_ids"]
    placed_BT = values_N.new_zeros(pairs_BT.shape)
    placed_BT[pairs_BT != NO_PAIR] = values_N
    return placed_BT


def scored(batch: Batch, name: str) -> Tensor:
    """Return a column of the examples' rows at the scored tokens: [N]."""
    return batch[name][batch["pair_ids"] != NO_PAIR]


def answer_sums(values_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sums over the tokens of the chosen and of the rejected answers: [P] each."""
    sides = "side_ids" if "side_ids" in batch else "branch_ids"
    place_N = 2 * scored(batch, "pair_ids") + (scored(batch, sides) - CHOSEN)
    sums = values_N.new_zeros(2 * len(batch["pairs"])).index_add(0, place_N, values_N)
    return sums[0::2], sums[1::2]


def answer_places(batch: Batch) -> Tensor:
    """Return the place of each scored token in its answer, from 0 on: [N]."""
    sides = "side_ids" if "side_ids" in batch else "branch_ids"
    answer_N = 2 * scored(batch, "pair_ids") + (scored(batch, sides) - CHOSEN)
    place_N = torch.arange(len(answer_N), device=answer_N.device)
    starts = torch.full((2 * len(batch["pairs"]),), len(answer_N), device=answer_N.device)
    starts.scatter_reduce_(0, answer_N, place_N, "amin")
    return place_N - starts[answer_N]
