"""How well a model tags words, on held-out rows."""
# N rows, K types of spans (or tags, where they mark no spans), T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.data.collation import collate_tokens
from ontogeny.data.packing import split_spans
from ontogeny.errors import DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.intervals import bootstrap_metric
from ontogeny_plugins.tagging.alignment import aligned, first_tokens, tag_logits
from ontogeny_plugins.tagging.tags import Span, Tags, spans_of, words_and_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.tagging import TaggingMetrics

Marked = list[tuple[set[Span], set[Span]]]  # the spans of each row: those that are true, and said


class TaggingEvaluator(Evaluator):
    """Compares the spans that tags mark, whole, or the tags where they mark none."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("tokens", "tags"),)

    def __init__(self, config: TaggingMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows or for tags that the model does not know.

        Raises ConfigError for a model that does not tag.
        """
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        tags = _tags_of(bundle)
        with torch.no_grad():
            self._token_tags(bundle, [np.zeros(1, np.int32)], 1)
        for name in data.rows:
            _true_tags(tags, data, name)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        tags = _tags_of(bundle)
        sources = {name: rows for name, rows in data.rows.items() if rows}
        pairs = {}
        for name, rows in sources.items():
            true = _true_tags(tags, data, name)
            said = self._predict(bundle, tags, rows, data.options.max_length)
            pairs[name] = list(zip(true, said, strict=True))
        metrics = self._metrics(tags, [pair for each in pairs.values() for pair in each])
        if len(sources) > 1:
            for name in sources:
                own = self._metrics(tags, pairs[name])
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _predict(
        self, bundle: Bundle, tags: Tags, rows: Sequence[Row], max_length: int
    ) -> list[list[str]]:
        """Return the tag of every word: that of its first token, outside where it has none."""
        sentences = [cast("list[str]", row["tokens"]) for row in rows]
        separator = str(getattr(bundle.model.config, "word_separator", " "))
        tokens = list(aligned(sentences, separator, bundle.tokenizer))
        predicted = self._token_tags(bundle, [ids_T for ids_T, _ in tokens], max_length)
        said = []
        for words, (_, word_T), tag_T in zip(sentences, tokens, predicted, strict=True):
            found = [tags.outside] * len(words)
            for place in np.flatnonzero(first_tokens(word_T)):
                found[word_T[place]] = int(tag_T[place])
            said.append([tags.names[number] for number in found])
        return said

    def _token_tags(
        self, bundle: Bundle, ids: Sequence[np.ndarray], max_length: int
    ) -> list[np.ndarray]:
        """Return the likeliest tag of every token, [T] each; long rows are split as in training."""
        pieces = split_spans(np.array([len(ids_T) for ids_T in ids]), max_length)
        order = sorted(range(len(pieces)), key=lambda piece: pieces[piece][1] - pieces[piece][2])
        found = [np.zeros(len(ids_T), np.int64) for ids_T in ids]
        device, size = next(bundle.model.parameters()).device, self.config.batch_size
        for begin in range(0, len(order), size):
            chosen = [pieces[piece] for piece in order[begin : begin + size]]
            batch = collate_tokens([{"input_ids": ids[n][i:j]} for n, i, j in chosen])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            logits = tag_logits(bundle.model, batch)
            for (number, start, stop), tag_T in zip(chosen, logits.argmax(-1).cpu(), strict=True):
                found[number][start:stop] = tag_T[: stop - start]
        return found

    def _metrics(self, tags: Tags, pairs: Sequence[tuple[list[str], list[str]]]) -> Metrics:
        hits_N = np.array([sum(map(str.__eq__, *pair)) for pair in pairs], float)
        words_N = np.array([len(true) for true, _ in pairs], float)
        accuracy = self._ratio(hits_N, words_N)
        if tags.mark_spans:
            marked = [(spans_of(true), spans_of(said)) for true, said in pairs]
            kinds = sorted({name[2:] for name in tags.names if name[1:2] == "-"})
            return {**self._spans(marked, kinds), "accuracy": accuracy}
        single = [(_each_word(true), _each_word(said)) for true, said in pairs]
        metrics = self._spans(single, list(tags.names))
        kept = {name: value for name, value in metrics.items() if not name.startswith("span_")}
        return {"accuracy": accuracy, **kept}

    def _spans(self, pairs: Marked, kinds: Sequence[str]) -> Metrics:
        """Return precision, recall and F1 of all spans, and F1 of each type."""
        both_NK, said_NK, true_NK = (
            _count(pairs, kinds, which) for which in ("both", "said", "true")
        )
        both_N, said_N, true_N = (each.sum(1) for each in (both_NK, said_NK, true_NK))
        sum_NK = said_NK + true_NK

        def macro_f1(drawn_N: np.ndarray) -> float:
            twice_K, sum_K = 2 * both_NK[drawn_N].sum(0), sum_NK[drawn_N].sum(0)
            is_there_K = sum_K > 0
            return (
                float((twice_K[is_there_K] / sum_K[is_there_K]).mean()) if any(is_there_K) else 0.0
            )

        metrics = {
            "span_f1": self._ratio(2 * both_N, said_N + true_N),
            "span_precision": self._ratio(both_N, said_N),
            "span_recall": self._ratio(both_N, true_N),
            "macro_f1": bootstrap_metric(macro_f1, len(pairs), "1", self.config.resamples),
        }
        for number, kind in enumerate(kinds):
            top_N, bottom_N = 2 * both_NK[:, number], sum_NK[:, number]
            metrics[f"f1/{kind}"] = self._ratio(top_N, bottom_N)
        return metrics

    def _ratio(self, top_N: np.ndarray, bottom_N: np.ndarray) -> Metric:
        """Return Σ top / Σ bottom; 0 where there is nothing to count, as seqeval says."""

        def ratio(drawn_N: np.ndarray) -> float:
            bottom = float(bottom_N[drawn_N].sum())
            return float(top_N[drawn_N].sum()) / bottom if bottom else 0.0

        return bootstrap_metric(ratio, len(top_N), "1", self.config.resamples)


def _each_word(tags: Sequence[str]) -> set[Span]:
    return {(tag, place, place + 1) for place, tag in enumerate(tags)}


def _count(pairs: Marked, kinds: Sequence[str], which: str) -> np.ndarray:
    """Count the spans of each type in each row: those that are true, said, or both, [N, K]."""
    number = {kind: column for column, kind in enumerate(kinds)}
    counts_NK = np.zeros((len(pairs), len(kinds)))
    for row, (true, said) in enumerate(pairs):
        for kind, *_ in {"true": true, "said": said, "both": true & said}[which]:
            counts_NK[row, number[kind]] += 1
    return counts_NK


def _tags_of(bundle: Bundle) -> Tags:
    names = cast("dict[int, str]", bundle.model.config.id2label)
    return Tags([str(names[number]) for number in sorted(names)])


def _true_tags(tags: Tags, data: EvaluationData, source: str) -> list[list[str]]:
    """Return the names of the tags of each row; raise DataError for what does not fit."""

    def names_of(row: Row) -> list[str]:
        return [tags.names[tags.id_of(tag)] for tag in words_and_tags(row)[1]]

    return data.each(source, names_of)
