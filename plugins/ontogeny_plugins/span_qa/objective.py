"""Extractive question answering: where the answer begins, and where it ends."""
# B windows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from ontogeny.data.collation import collate_tokens
from ontogeny.data.pipeline import sources_of
from ontogeny.errors import RowError
from ontogeny.objective import Batch, Example, Loss, Objective, Row
from ontogeny_plugins.span_qa.answers import answers_of
from ontogeny_plugins.span_qa.windows import end_logits, null_at_the_end, windows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.span_qa import SpanQA

NONE = -1  # the place of an answer that a window does not hold


class AnswerSpans(Objective):
    """Cross-entropy of both ends; a window without the answer points at one token set aside."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("question", "context", "answers"),)

    def __init__(self, config: SpanQA) -> None:
        self.config = config
        self.max_length = 0

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Find out whether there are questions without an answer."""
        self.max_length = corpus.data.max_length
        counts = {True: 0, False: 0}
        for name in corpus.names:
            if sources_of(corpus.data)[name].weight != 0:
                for row in corpus.rows(name):
                    counts[_has_answer(row)] += 1
        corpus.announce(f"questions: {counts[True]} with an answer, {counts[False]} without one")
        return {"unanswerable": counts[False] > 0, "max_length": self.max_length}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Cut each row into windows; `span` are the first and last token of its first answer."""
        answers = []
        for index, row in enumerate(rows):
            try:
                answers.append(answers_of(row)[:1])
            except ValueError as error:
                raise RowError(index, str(error)) from error
        for window in windows_of(rows, tokenizer, self.max_length, self.config.stride):
            spans = [window.span(answer) for answer in answers[window.row]]
            first, last = next((span for span in spans if span), (NONE, NONE))
            ends = {"first": np.array(first, np.int32), "last": np.array(last, np.int32)}
            yield {**window.tokens, **ends}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest: input_ids [B, T], first and last [B]."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the mean of both cross-entropies, summed over windows."""
        ends = zip(end_logits(model, batch), ("first", "last"), strict=True)
        total = batch["first"].new_zeros((), dtype=torch.float32)
        is_hit_B = torch.ones_like(batch["first"], dtype=torch.bool)
        for logits_BT, name in ends:
            masked_BT = without_padding(logits_BT, batch)
            place_B = _places(batch[name], batch, at_the_end=null_at_the_end(model))
            total = total + F.cross_entropy(masked_BT, place_B, reduction="sum") / 2
            is_hit_B = is_hit_B & (masked_BT.argmax(-1) == place_B)
        return Loss(total, torch.ones_like(is_hit_B).sum(), {"exact_spans": is_hit_B.sum()})


def without_padding(logits_BT: Tensor, batch: Batch) -> Tensor:
    """Return logits that leave no probability to padding."""
    if "attention_mask" not in batch:
        return logits_BT
    return logits_BT.masked_fill(batch["attention_mask"] == 0, torch.finfo(logits_BT.dtype).min)


def null_places(batch: Batch, *, at_the_end: bool) -> Tensor:
    """Return the token of each window that stands for "no answer", [B]."""
    ids_BT = batch["input_ids"]
    if not at_the_end:
        return torch.zeros_like(ids_BT[:, 0])
    mask_BT = batch.get("attention_mask", torch.ones_like(ids_BT))
    return mask_BT.sum(-1) - 1


def _places(place_B: Tensor, batch: Batch, *, at_the_end: bool) -> Tensor:
    return torch.where(place_B == NONE, null_places(batch, at_the_end=at_the_end), place_B)


def _has_answer(row: Row) -> bool:
    try:
        return bool(answers_of(row))
    except ValueError:
        return True  # `prepare` says what is wrong with it
