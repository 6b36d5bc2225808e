"""Rows whose answers the student writes: prompts out of rows, and rows out of what was written."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.chat.answers import answer_examples, answer_text
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import causal_examples
from ontogeny.generation import require_generation
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, OnlineObjective, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.chat.rendering import Rendered
    from ontogeny.chat.template import ChatTemplate
    from ontogeny.companions import Companions


class WritingObjective(OnlineObjective):
    """Trains on answers that a model writes to the prompts of the data."""

    columns: ClassVar[Sequence[Sequence[str]]] = (
        ("messages",),
        ("prompt", "completion"),
        ("text",),
    )
    long_examples: ClassVar[LongExamples] = "truncate"
    name: ClassVar[str]  # as it is chosen, for messages

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.bundle: Bundle | None = None

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield input_ids and labels: the last answer of a row, or a text behind its beginning."""
        if all("messages" not in row and "prompt" not in row for row in rows):
            texts = [str(row["text"]) for row in rows]
            for example in causal_examples(texts, tokenizer, start=True, end=True):
                labels_T = example["labels"].copy()
                labels_T[: min(self.prompt_tokens, len(labels_T)) - 1] = IGNORED
                yield {"input_ids": example["input_ids"], "labels": labels_T}
            return
        yield from answer_examples(rows, tokenizer, _last_answer)

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Take the model that is to write; raise ConfigError for one that cannot."""
        require_generation(bundle.model, f"objective={self.name}")
        self.bundle = bundle
        return None

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T]."""
        return collate_tokens(examples)

    def begin(self, companions: Companions) -> None:
        """Remember the tokenizer."""
        self.tokenizer = companions.tokenizer


def prompts_of(batch: Batch) -> list[list[int]]:
    """Return of each row all up to the token that predicts its first label."""
    labelled_BT = batch["labels"] != IGNORED
    firsts = labelled_BT.int().argmax(1).tolist()
    rows = batch["input_ids"].tolist()
    return [row[: first + 1] for row, first in zip(rows, firsts, strict=True)]


def examples_of_batch(batch: Batch) -> list[Example]:
    """Return the rows of a batch without their padding."""
    lengths = [batch["input_ids"].shape[1]] * len(batch["input_ids"])
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
    columns = {name: batch[name].cpu().numpy() for name in ("input_ids", "labels")}
    return [
        {name: column[row, :length] for name, column in columns.items()}
        for row, length in enumerate(lengths)
    ]


def written_example(prompt: Sequence[int], tokens: Sequence[int]) -> Example:
    """Return a row whose labels are the tokens that were written."""
    ids_T = np.array([*prompt, *tokens], np.int32)
    labels_T = np.concatenate([np.full(len(prompt) - 1, IGNORED, np.int32), ids_T[len(prompt) :]])
    return {"input_ids": ids_T[:-1], "labels": labels_T}


def on_device(batch: Batch, like: Tensor) -> Batch:
    """Return a batch on the device of a tensor."""
    return {name: tensor.to(like.device) for name, tensor in batch.items()}


def drawn_seed() -> int:
    """Return a seed for sampling, out of torch's own, which the core has set for this step."""
    return int(torch.randint(2**31, ()))


def _last_answer(row: Row, template: ChatTemplate | None) -> Rendered:
    return answer_text(row, template, "last")
