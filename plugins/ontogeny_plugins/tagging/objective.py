"""Tagging: every word has a label."""
# B rows, T tokens, C tags

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from ontogeny.data.collation import collate_tokens
from ontogeny.data.pipeline import sources_of
from ontogeny.errors import ConfigError, DataError, RowError
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny_plugins.tagging.alignment import aligned, first_tokens, tag_logits
from ontogeny_plugins.tagging.tags import Tags, in_order, tag_name, words_and_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.tagging import Tagging


class WordTagging(Objective):
    """Cross-entropy of the tags of words; rows that are too long are split, and no word is lost."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("tokens", "tags"),)
    long_examples: ClassVar[LongExamples] = "split"
    packs: ClassVar[bool] = True

    def __init__(self, config: Tagging) -> None:
        self.config = config
        self.tags = Tags(config.tags)

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Find the tags in the rows that are trained on."""
        counts = _count(corpus)
        self.tags = Tags(self.config.tags or in_order(counts))
        names = self.tags.names
        if len(names) == 1:  # none: `prepare` says what is wrong, row by row
            who = "objective.tags names" if self.config.tags else "all words have"
            raise DataError(f"{who} the tag {names[0]!r} alone; tagging needs two or more")
        unknown = [name for name in self.config.class_weights if name not in self.tags.ids]
        if names and unknown:
            listed = ", ".join(self.tags.names)
            raise ConfigError(f"objective.class_weights.{unknown[0]} names no tag; known: {listed}")
        listed = ", ".join(f"{name} {counts[name]}" for name in in_order(counts)[:12])
        corpus.announce(f"tags: {len(self.tags.names)}: {listed}{', …' * (len(counts) > 12)}")
        return {"labels": list(self.tags.names), "word_separator": self.config.word_separator}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Tokenise words; labels[t] is the tag of token t, of the first of a word or of all."""
        sentences, tags = [], []
        for index, row in enumerate(rows):
            try:
                words, names = words_and_tags(row)
                tags.append(np.array([self.tags.id_of(name) for name in names], np.int32))
            except ValueError as error:
                raise RowError(index, str(error)) from error
            sentences.append(words)
        pairs = aligned(sentences, self.config.word_separator, tokenizer)
        for (ids_T, word_T), tags_W in zip(pairs, tags, strict=True):
            yield {"input_ids": ids_T, "labels": self._labels(word_T, tags_W)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T], class_weights [C]."""
        weights = [self.config.class_weights.get(name, 1.0) for name in self.tags.names]
        return {**collate_tokens(examples), "class_weights": torch.tensor(weights)}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the cross-entropy; its weight is the sum of the weights of the tags."""
        logits_BTC = tag_logits(model, batch).float()
        labels_BT, weights_C = batch["labels"], batch["class_weights"]
        total = F.cross_entropy(
            logits_BTC.flatten(0, 1), labels_BT.flatten(), weights_C, reduction="sum"
        )
        counted_BT = weights_C[labels_BT.clamp(min=0)] * (labels_BT != IGNORED)
        hits_BT = (logits_BTC.argmax(-1) == labels_BT) * counted_BT
        return Loss(total, counted_BT.sum(), {"accuracy": hits_BT.sum()})

    def _labels(self, word_T: np.ndarray, tags_W: np.ndarray) -> np.ndarray:
        is_first_T = first_tokens(word_T)
        labels_T = np.where(word_T >= 0, tags_W[word_T], IGNORED)
        if self.config.pieces == "first":
            return np.where(is_first_T, labels_T, IGNORED).astype(np.int32)
        further_T = [self.tags.inside(tag) if tag >= 0 else IGNORED for tag in labels_T]
        return np.where(is_first_T, labels_T, further_T).astype(np.int32)


def _count(corpus: Corpus) -> Counter[str]:
    """Count the tags of all rows that are trained on; rows that do not fit are refused later."""
    sources, counts = sources_of(corpus.data), Counter[str]()
    for name in corpus.names:
        if sources[name].weight == 0:
            continue
        for row in corpus.rows(name):
            try:
                counts.update([tag_name(tag) for tag in words_and_tags(row)[1]])
            except ValueError:
                continue
    return counts
