"""Focal loss (Lin et al., 2017, "Focal loss for dense object detection") over next tokens."""
# N labelled tokens of the batch

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.objective import Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.preflight import Proof, future_proof
from ontogeny.vocabulary_loss import label_log_probs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny_focal import Focal

SMALLEST = 1e-12  # of 1 - p: for γ < 1 the derivative of (1 - p)^γ is infinite at 0


class FocalObjective(Objective):
    """Next-token prediction in which a token counts by how badly it is predicted."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)
    long_examples: ClassVar[LongExamples] = "split"
    packs: ClassVar[bool] = True

    def __init__(self, config: Focal) -> None:
        self.config = config

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Return [start] text [end], cut into what is seen and what is predicted one later."""
        end = tokenizer.eos_token_id
        start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        around = [[] if token is None else [token] for token in (start, end)]
        texts = [str(row["text"]) for row in rows]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            document = np.array([*around[0], *ids, *around[1]], dtype=np.int32)
            yield {"input_ids": document[:-1], "labels": document[1:]}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T]."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return -Σ (1 - p)^γ log p over the labelled tokens, and their number: eq. 4."""
        log_probs_N = label_log_probs(model, model_inputs(model, batch), batch["labels"])
        missed_N = -torch.expm1(log_probs_N)  # 1 - p, without cancellation where p is near 1
        focus_N = missed_N.clamp(min=SMALLEST) ** self.config.gamma
        total = -(focus_N * log_probs_N).sum()
        metrics = {"cross_entropy": -log_probs_N.detach().sum(), "focus": focus_N.detach().sum()}
        return Loss(total, torch.tensor(len(log_probs_N), device=total.device), metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal."""
        yield future_proof(model, batch, causal=is_causal(model))
