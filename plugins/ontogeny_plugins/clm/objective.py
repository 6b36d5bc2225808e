"""Causal language modelling on raw text."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import token_ids
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny.vocabulary_loss import vocabulary_loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny_plugins.clm import CLM


class CausalLM(Objective):
    """Next-token prediction; documents longer than a row are split, and no token is lost."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)
    long_examples: ClassVar[LongExamples] = "split"
    packs: ClassVar[bool] = True

    def __init__(self, config: CLM) -> None:
        self.config = config

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Return [start] text [end], cut into what is seen and what is predicted one later."""
        texts = [cast("str", row["text"]) for row in rows]
        start = self._ids(self.config.document_start, tokenizer.bos_token_id, tokenizer)
        end = self._ids(self.config.document_end, tokenizer.eos_token_id, tokenizer)
        for ids in token_ids(texts, tokenizer):
            document = np.array([*start, *ids, *end], dtype=np.int32)
            yield {"input_ids": document[:-1], "labels": document[1:]}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T]."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ -log p over the labelled tokens, and their number."""
        labels_BT = batch["labels"]
        total = vocabulary_loss(model, model_inputs(model, batch), labels_BT)
        return Loss(total, (labels_BT != IGNORED).sum())

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal and that the chunked loss equals its own logits."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)

    @staticmethod
    def _ids(wanted: bool, token: int | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        chosen = tokenizer.eos_token_id if token is None else token
        return [int(chosen)] if wanted and chosen is not None else []
