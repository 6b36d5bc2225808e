"""How well a model tells classes apart, on held-out rows."""
# N rows, C classes, K outputs

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.errors import DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny_plugins.classification import measures
from ontogeny_plugins.classification.encoding import COLUMNS, texts_of
from ontogeny_plugins.classification.predictions import labels_of, predict, probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.classification import ClassificationMetrics
    from ontogeny_plugins.classification.labels import Labels


class ClassificationEvaluator(Evaluator):
    """Compares predictions with labels; which numbers there are depends on the task."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: ClassificationMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows or for labels that the model does not know.

        Raises ConfigError for a model without classes of texts.
        """
        labels = labels_of(bundle.model.config)
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        first = next(row for rows in data.rows.values() for row in rows)
        with torch.no_grad():
            predict(bundle, [first], data.options.max_length, 1)
        for name, rows in data.rows.items():
            if rows:
                data.each(name, texts_of)
                _targets(labels, data, name)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        labels = labels_of(bundle.model.config)
        sources = {name: list(rows) for name, rows in data.rows.items() if rows}
        outputs, targets = {}, {}
        for name, rows in sources.items():
            targets[name] = _targets(labels, data, name)
            length, size = data.options.max_length, self.config.batch_size
            outputs[name] = predict(bundle, rows, length, size)
        metrics = self._metrics(
            labels, torch.cat(list(outputs.values())), torch.cat(list(targets.values()))
        )
        if len(sources) > 1:
            for name in sources:
                own = self._metrics(labels, outputs[name], targets[name])
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _metrics(self, labels: Labels, outputs_NK: Tensor, targets: Tensor) -> Metrics:
        rows, resamples, bins = len(targets), self.config.resamples, self.config.bins
        found = probabilities(labels.task, outputs_NK)
        if labels.task == "regression":
            numbers = measures.regression_measures(found.squeeze(-1), targets)
            return measures.with_intervals(numbers, rows, resamples)
        shown = len(labels.names) <= self.config.per_class
        if labels.task == "multi_label":
            chosen = measures.multi_label_measures(found, targets, bins)
            if shown:
                said_NC, true_NC = (found > 0.5).numpy(), targets.bool().numpy()
                chosen |= {
                    f"f1/{name}": measures.f1_of(said_NC[:, number], true_NC[:, number])
                    for number, name in enumerate(labels.names)
                }
            return measures.with_intervals(chosen, rows, resamples)
        predicted_N = _predicted(labels.task, outputs_NK, found)
        if labels.task == "ordinal":
            chosen = measures.ordinal_measures(found, predicted_N, targets)
        else:
            chosen = measures.single_label_measures(found, targets, bins)
        if not shown:
            return measures.with_intervals(chosen, rows, resamples)
        chosen |= measures.per_class_f1(predicted_N, targets, labels.names)
        return {
            **measures.with_intervals(chosen, rows, resamples),
            **measures.confusion(predicted_N, targets, labels.names),
        }


def _predicted(task: str, outputs_NK: Tensor, probabilities_NC: Tensor) -> Tensor:
    """Return the class of each row; of ordered ones, how many are likely exceeded."""
    if task == "ordinal":
        return (outputs_NK.sigmoid().cumprod(-1) > 0.5).sum(-1)
    return probabilities_NC.argmax(-1)


def _targets(labels: Labels, data: EvaluationData, source: str) -> Tensor:
    """Return the classes of rows, [N] or [N, C], or the numbers; raise DataError for strangers."""
    targets = data.each(source, lambda row: labels.target(row["label"]))
    if labels.task == "multi_label":
        classes = np.arange(len(labels.names))
        return torch.from_numpy(np.stack([np.isin(classes, each) for each in targets]).astype(int))
    kind = np.float32 if labels.task == "regression" else np.int64
    return torch.from_numpy(np.stack(targets).astype(kind))
