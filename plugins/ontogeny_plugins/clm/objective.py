"""Causal language modelling on raw text."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import causal_examples
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
        start, end = self.config.document_start, self.config.document_end
        return causal_examples(texts, tokenizer, start=start, end=end)

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
