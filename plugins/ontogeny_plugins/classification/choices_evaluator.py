"""How often the right one of several texts gets the best score, on held-out rows."""
# N rows, B rows of a batch, C choices

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from ontogeny.errors import DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny_plugins.classification import measures
from ontogeny_plugins.classification.choices import (
    COLUMNS,
    choice_logits,
    collate_choices,
    encode_choices,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example
    from ontogeny_plugins.classification import MultipleChoiceMetrics


class MultipleChoiceEvaluator(Evaluator):
    """Accuracy, and the calibration error of the probability of what is chosen."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: MultipleChoiceMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows or for rows that do not fit, ConfigError for other heads."""
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        for name in data.rows:
            if examples := self._examples(bundle, data, name):
                with torch.no_grad():
                    self._predict(bundle, examples[:1])

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        parts = {}
        for name, rows in data.rows.items():
            if rows:
                parts[name] = self._predict(bundle, self._examples(bundle, data, name))
        widest = max(found_NC.shape[1] for found_NC, _ in parts.values())
        padded = [F.pad(found, (0, widest - found.shape[1])) for found, _ in parts.values()]
        targets = [target_N for _, target_N in parts.values()]
        metrics = self._metrics(torch.cat(padded), torch.cat(targets))
        if len(parts) > 1:
            for name, part in parts.items():
                own = self._metrics(*part)
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _examples(self, bundle: Bundle, data: EvaluationData, source: str) -> list[Example]:
        length = data.options.max_length
        return data.each(source, lambda row: encode_choices(row, bundle.tokenizer, length))

    def _predict(self, bundle: Bundle, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the choices, [N, C], and which are the right ones, [N]."""
        order = sorted(range(len(examples)), key=lambda row: -int(examples[row]["lengths"].max()))
        device, parts = next(bundle.model.parameters()).device, []
        widest = max(len(example["lengths"]) for example in examples)
        for begin in range(0, len(order), self.config.batch_size):
            chosen = [examples[row] for row in order[begin : begin + self.config.batch_size]]
            batch = {name: each.to(device) for name, each in collate_choices(chosen).items()}
            found_BC = choice_logits(bundle.model, batch).softmax(-1).cpu()
            parts.append(F.pad(found_BC, (0, widest - found_BC.shape[1])))
        found_NC = torch.cat(parts)[torch.tensor(order).argsort()]
        return found_NC, torch.tensor([int(example["target"]) for example in examples])

    def _metrics(self, found_NC: Tensor, target_N: Tensor) -> Metrics:
        every = measures.single_label_measures(found_NC, target_N, self.config.bins)
        chosen = {name: every[name] for name in ("accuracy", "calibration_error")}
        return measures.with_intervals(chosen, len(target_N), self.config.resamples)
