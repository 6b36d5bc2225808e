"""Classification of whole texts."""
# B rows, C classes

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.data.collation import collate_tokens
from ontogeny.data.pipeline import sources_of
from ontogeny.errors import RowError
from ontogeny.objective import Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny_plugins.classification.encoding import COLUMNS, encode, fitted, text_logits
from ontogeny_plugins.classification.labels import (
    Labels,
    class_weights,
    find_labels,
    renumbered,
)
from ontogeny_plugins.classification.losses import LOSSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.classification import Classification


class TextClassification(Objective):
    """Labels of texts, or of pairs of texts; what kind they are is found out in the data."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS
    long_examples: ClassVar[LongExamples] = "truncate"

    def __init__(self, config: Classification) -> None:
        self.config = config
        self.max_length = 0
        self.labels = Labels("single_label", ())
        self.weights: list[float] | None = None

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Find the task and the classes in the rows that are trained on."""
        self.max_length = corpus.data.max_length
        self.labels = find_labels(_trained_labels(corpus), self.config)
        self.weights = class_weights(self.labels, self.config)
        _announce(corpus, self.labels)
        return {**self.labels.facts, "max_length": self.max_length}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Tokenise texts as the tokenizer likes them, with its special tokens."""
        for index, example in enumerate(encode(rows, tokenizer)):
            try:
                target = self.labels.target(rows[index]["label"])
            except ValueError as error:
                raise RowError(index, str(error)) from error
            yield {**example, "target": target}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest: input_ids [B, T], target [B] or [B, C], class_weights [C]."""
        batch = collate_tokens([fitted(example, self.max_length) for example in examples])
        classes = len(self.labels.names)
        weights = self.weights or [1.0] * classes
        targets = [example["target"] for example in examples]
        if self.labels.task == "multi_label":
            targets = [np.isin(np.arange(classes), each).astype(np.float32) for each in targets]
        kind = np.int64 if self.labels.task in {"single_label", "ordinal"} else np.float32
        batch["target"] = torch.from_numpy(np.stack(targets).astype(kind))
        batch["class_weights"] = torch.tensor(weights, dtype=torch.float32)
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the task, in float32."""
        logits_BC = text_logits(model, batch).float()
        loss = LOSSES[self.labels.task]
        return loss(logits_BC, batch["target"], batch["class_weights"], self.config.label_smoothing)


def _trained_labels(corpus: Corpus) -> Iterator[object]:
    """Yield the labels of all rows that are trained on: none of sources of weight 0."""
    sources = sources_of(corpus.data)
    for name in corpus.names:
        if sources[name].weight != 0:
            yield from (row["label"] for row in corpus.rows(name))


def _announce(corpus: Corpus, labels: Labels) -> None:
    if labels.task == "regression":
        corpus.announce("labels: numbers, to be predicted as such (objective.task=regression)")
        return
    pairs = [f"{name} {count}" for name, count in zip(labels.names, labels.counts, strict=True)]
    listed = ", ".join(pairs[:12]) + ", …" * (len(pairs) > 12)
    corpus.announce(f"labels: {len(pairs)} classes ({labels.task}): {listed}")
    if note := renumbered(labels):
        corpus.announce(f"labels: {note}")
