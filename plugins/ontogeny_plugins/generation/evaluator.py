"""Answers written to held-out prompts, scored against the answers of the rows."""
# N rows

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import bootstrap_metric, mean_metric, share_metric
from ontogeny.prompts import Prompt, prompts_of
from ontogeny_plugins.generation import KEY
from ontogeny_plugins.generation.overlap import (
    corpus_score,
    exact_matches,
    has_words,
    require_sacrebleu,
    rouge,
)

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny_plugins.generation import Generation

COLUMNS = (("prompt", "completion"), ("messages",))


class GenerationEvaluator(Evaluator):
    """Writes an answer to every prompt, and compares it with the row's own."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: Generation) -> None:
        self.config = config
        if config.path is not None:
            self.columns = ()  # type: ignore[misc]  # its own rows, none of the data's

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for a model that cannot write, rows without answers, and prompts too long."""
        options = self.config
        require_generation(bundle.model, KEY)
        if not {"chrf", "bleu"}.isdisjoint(options.metrics):
            require_sacrebleu(f"{KEY}.metrics")
        prompts = self._prompts(bundle, self._rows(data))
        self._require_words([prompt.answer for prompt in prompts])
        tokens = [prompt.tokens for prompt in prompts]
        require_room(bundle.model, tokens, options.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics of all rows; of each source too, when there are several."""
        options = self.config
        rows = self._rows(data)
        prompts = self._prompts(bundle, rows)
        decoding = Decoding(
            options.max_tokens, options.batch_size, options.temperature, options.seed
        )
        written = write(bundle, [prompt.tokens for prompt in prompts], decoding)
        texts = [each.text.strip() for each in written]
        answers = [prompt.answer.strip() for prompt in prompts]

        def measure(indices_N: np.ndarray) -> Metrics:
            drawn = [int(index) for index in indices_N]
            return self._measure([texts[index] for index in drawn], [answers[i] for i in drawn])

        return rows.metrics(measure)

    def _measure(self, texts: Sequence[str], answers: Sequence[str]) -> Metrics:
        return {name: self._metric(name, texts, answers) for name in self.config.metrics}

    def _metric(self, name: str, texts: Sequence[str], answers: Sequence[str]) -> Metric:
        options = self.config
        if name == "exact_match":
            return share_metric(exact_matches(texts, answers, normalise=options.normalise))
        if name.startswith("rouge"):
            scores_N = rouge(texts, answers, name, options.tokens)
            return mean_metric(scores_N, "1", options.resamples)
        score = corpus_score(texts, answers, name, options.tokens)
        return bootstrap_metric(score, len(texts), "points", options.resamples)

    def _require_words(self, answers: Sequence[str]) -> None:
        """Raise ConfigError where ROUGE would be 0 whatever the model writes."""
        by_words = {"rouge1", "rouge2", "rougeL"} & set(self.config.metrics)
        if self.config.tokens == "characters" or not by_words:
            return
        without = sum(not has_words(answer) for answer in answers)
        if without > len(answers) / 2:
            msg = (
                f"{KEY}.tokens is words, but {without} of {len(answers)} answers have no word of "
                f"a-z and 0-9, which is all that ROUGE counts; set {KEY}.tokens=characters"
            )
            raise ConfigError(msg)

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, self.config.path, COLUMNS, self.config.limit, KEY)

    def _prompts(self, bundle: Bundle, rows: EvaluatedRows) -> list[Prompt]:
        prompts = prompts_of(bundle, rows.rows, self.config.template)
        for prompt, row in zip(prompts, rows.rows, strict=True):
            if not prompt.answer.strip():
                named = str(row.get("prompt", row.get("messages")))[:80]
                msg = (
                    f"{KEY}: the row {named!r} has no answer to compare with; expected a "
                    f"completion, or messages that end with the assistant's"
                )
                raise DataError(msg)
        return prompts
