"""Perplexity and bits per byte of held-out documents, without ever holding their logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.models import longest_context
from ontogeny.scoring import TextScores, ratio_interval, score_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.perplexity import Perplexity


class PerplexityEvaluator(Evaluator):
    """Scores every token of every document once, as `ontogeny.scoring` does."""

    def __init__(self, config: Perplexity) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows, ConfigError for an unfit model and windows too long."""
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        model = bundle.model
        if not model.can_generate() or model.config.is_encoder_decoder:
            msg = (
                f"evaluator=[perplexity] is for models that predict the next token, and a "
                f"{type(model).__name__} is none; choose another evaluator, for a masked language "
                f"model 'evaluator=[pseudo_perplexity]', for an encoder with a decoder "
                f"'evaluator=[generation]'"
            )
            raise ConfigError(msg)
        length, longest = self.config.max_length, longest_context(bundle.model)
        if length is not None and longest is not None and length > longest:
            msg = (
                f"evaluator.perplexity.max_length is {length}, longer than the context of the "
                f"model: {longest} (max_position_embeddings)"
            )
            raise ConfigError(msg)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        self.check(bundle, data)
        length = self.config.max_length or data.options.max_length
        measured = {
            name: self._measure(bundle, rows, length) for name, rows in data.rows.items() if rows
        }
        metrics = self._metrics(list(measured.values()))
        if len(measured) > 1:
            for name, documents in measured.items():
                own = self._metrics([documents])
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _measure(self, bundle: Bundle, rows: Sequence[Row], length: int) -> TextScores:
        texts = [str(row["text"]) for row in rows]
        return score_texts(bundle, texts, length=length, batch_size=self.config.batch_size)

    def _metrics(self, parts: Sequence[TextScores]) -> Metrics:
        nats_N = np.concatenate([part.nats_N for part in parts])
        tokens_N = np.concatenate([part.tokens_N for part in parts])
        bytes_N = np.concatenate([part.bytes_N for part in parts])
        nats, low_nats, high_nats = ratio_interval(nats_N, tokens_N, self.config.resamples)
        bits, low_bits, high_bits = ratio_interval(
            nats_N / math.log(2), bytes_N, self.config.resamples
        )
        perplexity, low, high = (math.exp(each) for each in (nats, low_nats, high_nats))
        return {
            "nats_per_token": Metric(nats, "nats/token", low_nats, high_nats),
            "perplexity": Metric(perplexity, "1", low, high),
            "bits_per_byte": Metric(bits, "bits/byte", low_bits, high_bits),
        }
