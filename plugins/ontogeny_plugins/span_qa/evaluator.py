"""How well a model finds answers in held-out contexts."""
# N rows, B windows, T tokens

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.data.collation import collate_tokens
from ontogeny.errors import DataError, RowError
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.intervals import mean_metric
from ontogeny_plugins.span_qa.answers import answers_of, exact_match, word_f1
from ontogeny_plugins.span_qa.objective import null_places, without_padding
from ontogeny_plugins.span_qa.windows import (
    Window,
    end_logits,
    null_at_the_end,
    require_room,
    windows_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.span_qa import SpanQAMetrics


@dataclass
class Found:
    """What the windows of a row have said so far; scores are logits, start plus end."""

    answer: str = ""
    score: float = -np.inf
    null_score: float = np.inf  # of no answer, in the window where that is least likely


class SpanQAEvaluator(Evaluator):
    """Takes the best span of all windows of a row, and compares it as SQuAD's script does."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("question", "context", "answers"),)

    def __init__(self, config: SpanQAMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows or for answers that do not stand in their context.

        Raises ConfigError for a model that points at no answers.
        """
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        for name, rows in data.rows.items():
            if rows:
                _true_answers(data, name)
                self._require_room(bundle, data, name)
                with torch.no_grad():
                    self.answers(bundle, rows[:1], data.options.max_length)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        scores = {}
        for name, rows in data.rows.items():
            if rows:
                true = _true_answers(data, name)
                said = self.answers(bundle, rows, data.options.max_length)
                pairs = list(zip(said, true, strict=True))
                scores[name] = [
                    (exact_match(*pair), word_f1(*pair), bool(pair[1])) for pair in pairs
                ]
        metrics = self._metrics([score for each in scores.values() for score in each])
        if len(scores) > 1:
            for name, own in scores.items():
                named = self._metrics(own)
                metrics |= {f"{metric}/{name}": value for metric, value in named.items()}
        return metrics

    def _require_room(self, bundle: Bundle, data: EvaluationData, source: str) -> None:
        length, stride = data.options.max_length, self.config.stride
        try:
            require_room(data.rows[source], bundle.tokenizer, length, stride)
        except RowError as error:
            msg = f"{data.place(source, error.index)}: {error.reason}; mend the row"
            raise DataError(msg) from error

    def answers(self, bundle: Bundle, rows: Sequence[Row], max_length: int) -> list[str]:
        """Return what the model answers to each question; nothing where it finds no answer."""
        windows = list(windows_of(rows, bundle.tokenizer, max_length, self.config.stride))
        windows.sort(key=lambda window: -len(window.tokens["input_ids"]))  # little padding
        found = [Found() for _ in rows]
        for window, start_T, end_T, null in self._scores(bundle, windows):
            self._look(
                found[window.row], window, start_T, end_T, null, str(rows[window.row]["context"])
            )
        may_be_none = bool(getattr(bundle.model.config, "unanswerable", True))
        return [each.answer if self._is_answered(each, may_be_none) else "" for each in found]

    def _is_answered(self, found: Found, may_be_none: bool) -> bool:
        return not may_be_none or found.null_score - found.score <= self.config.null_threshold

    def _scores(
        self, bundle: Bundle, windows: Sequence[Window]
    ) -> Iterator[tuple[Window, np.ndarray, np.ndarray, float]]:
        """Yield for each window the logits of start and end, [T], and their sum for no answer."""
        model, size = bundle.model, self.config.batch_size
        device, at_the_end = next(model.parameters()).device, null_at_the_end(model)
        for begin in range(0, len(windows), size):
            chosen = windows[begin : begin + size]
            batch = collate_tokens([window.tokens for window in chosen])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            starts_BT, ends_BT = (
                without_padding(logits_BT, batch) for logits_BT in end_logits(model, batch)
            )
            places_B = null_places(batch, at_the_end=at_the_end)[:, None]
            nulls_B = (starts_BT.gather(1, places_B) + ends_BT.gather(1, places_B))[:, 0]
            parts = starts_BT.cpu().numpy(), ends_BT.cpu().numpy(), nulls_B.tolist()
            yield from zip(chosen, *parts, strict=True)

    def _look(
        self,
        found: Found,
        window: Window,
        start_T: np.ndarray,
        end_T: np.ndarray,
        null: float,
        context: str,
    ) -> None:
        """Take the best span of a window if it is better than those of others."""
        found.null_score = min(found.null_score, null)
        length = len(window.starts_T)
        is_context_T = window.starts_T >= 0
        start_T = np.where(is_context_T, start_T[:length], -np.inf)
        end_T = np.where(is_context_T, end_T[:length], -np.inf)
        starts, ends = (np.argsort(-each)[: self.config.candidates] for each in (start_T, end_T))
        sizes = ends[None] - starts[:, None] + 1
        scores = start_T[starts][:, None] + end_T[ends][None]
        scores = np.where((sizes >= 1) & (sizes <= self.config.longest_answer), scores, -np.inf)
        best = np.unravel_index(scores.argmax(), scores.shape)
        if scores[best] > found.score:
            found.score = float(scores[best])
            first, last = starts[best[0]], ends[best[1]]
            found.answer = context[window.starts_T[first] : window.stops_T[last]].strip()

    def _metrics(self, scores: Sequence[tuple[float, float, bool]]) -> Metrics:
        exact_N, f1_N = (np.array([score[place] for score in scores]) for place in (0, 1))
        has_answer_N = np.array([score[2] for score in scores])
        metrics = self._means("", exact_N, f1_N)
        if has_answer_N.any() and not has_answer_N.all():
            metrics |= self._means("/answer", exact_N[has_answer_N], f1_N[has_answer_N])
            metrics |= self._means("/no_answer", exact_N[~has_answer_N], f1_N[~has_answer_N])
        return metrics

    def _means(self, suffix: str, exact_N: np.ndarray, f1_N: np.ndarray) -> Metrics:
        resamples = self.config.resamples
        return {
            f"exact_match{suffix}": mean_metric(exact_N, "1", resamples),
            f"f1{suffix}": mean_metric(f1_N, "1", resamples),
        }


def _true_answers(data: EvaluationData, source: str) -> list[list[str]]:
    """Return the texts of each row's answers; raise DataError for what does not fit."""
    return data.each(source, lambda row: [answer.text for answer in answers_of(row)])
