"""What a model's answers to held-out prompts are worth."""
# A answers

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from ontogeny.errors import DataError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import mean_metric, share_metric
from ontogeny.reward import Completion, Rewards
from ontogeny_plugins.reinforcement.prompts import COLUMNS, Prompt, prompt_tokens, with_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny_plugins.reinforcement import RolloutMetrics

KEY = "evaluator.rollouts"


class RolloutsEvaluator(Evaluator):
    """Mean reward, of all rewards and of each, and how long answers are."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: RolloutMetrics) -> None:
        self.config = config

    def begin(self, companions: Companions) -> None:
        """Take the rewards of the stage."""
        self.rewards = Rewards(companions.config.reward, companions.registry)
        self.rewards.begin(companions)

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for prompts that cannot be read, and for a model that cannot write."""
        require_generation(bundle.model, KEY)
        prompts = self._prompts(self._rows(data), bundle)
        tokens = [prompt.tokens for prompt in prompts]
        require_room(bundle.model, tokens, self.config.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return metrics of all prompts, and of each source where there are several."""
        rows, options = self._rows(data), self.config
        prompts = self._prompts(rows, bundle)
        decoding = Decoding(options.max_tokens, options.batch_size, options.temperature)
        written = write(bundle, [prompt.tokens for prompt in prompts], decoding)
        scores = self.rewards.score(
            [
                Completion(prompt.row, prompt.tokens, each.text, each.tokens, each.ended)
                for prompt, each in zip(prompts, written, strict=True)
            ]
        )
        ended_A = np.array([each.ended for each in written], float)
        lengths_A = np.array([len(each.tokens) for each in written], float)
        named = dict(scores.by_name) if len(scores.by_name) > 1 else {}

        def measure(drawn_A: np.ndarray) -> Metrics:
            def mean(values_A: np.ndarray, unit: str) -> object:
                return mean_metric(values_A[drawn_A], unit, options.resamples)

            found = {
                "reward": mean(scores.total_N, "1"),
                **{f"reward_{name}": mean(values_A, "1") for name, values_A in named.items()},
                "answer_tokens": mean(lengths_A, "tokens"),
                "ended": share_metric(ended_A[drawn_A]),
            }
            return cast("Metrics", found)

        return rows.metrics(measure)

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, None, self.columns, self.config.limit, KEY)

    def _prompts(self, rows: EvaluatedRows, bundle: Bundle) -> list[Prompt]:
        prompts = []
        for index, given in enumerate(rows.rows):
            row = with_prompt(given)
            try:
                prompts.append(Prompt(row, prompt_tokens(row, bundle.tokenizer)))
            except ValueError as error:
                raise DataError(f"{KEY}: row {index + 1}: {error}") from error
        return prompts
