"""Do the model's implicit rewards agree with the pairs? Reward: β log π(y|x) / π_ref(y|x)."""
# P pairs

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from ontogeny.chat.pairs import COLUMNS, pairs_of
from ontogeny.errors import DataError, RowError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.intervals import mean_metric, share_metric
from ontogeny_plugins.preference.scoring import answer_sums, collate_pairs, token_log_probs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companion, Companions
    from ontogeny.objective import Example
    from ontogeny_plugins.preference import PreferenceMetrics

KEY = "evaluator.preference"


class PreferenceEvaluator(Evaluator):
    """Accuracy and margin of implicit rewards, and the accuracy of likelihoods alone."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: PreferenceMetrics) -> None:
        self.config = config
        self._reference: Companion | None = None
        self._of_reference: np.ndarray | None = None  # [P, 2]: read once

    def begin(self, companions: Companions) -> None:
        """Take the reference: `teacher.source`, or the model that the stage is given."""
        self._reference = companions.teacher or companions.original
        companions.require_same_tokens(self._reference)

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError for pairs that cannot be scored."""
        _examples(self._rows(data), bundle)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return metrics of all pairs, and of each source where there are several."""
        rows = self._rows(data)
        examples = _examples(rows, bundle)
        policy_P2 = self._scores(cast("nn.Module", bundle.model), examples)
        if self._of_reference is None:
            reference = cast("Companion", self._reference).load()
            self._of_reference = self._scores(cast("nn.Module", reference.model), examples)
        rewards_P2 = self.config.beta * (policy_P2 - self._of_reference)
        margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        hits_P = np.where(margins_P == 0, 0.5, margins_P > 0)  # a tie is a guess
        likelier_P = (policy_P2[:, 0] > policy_P2[:, 1]).astype(float)
        resamples = self.config.resamples

        def measure(drawn_N: np.ndarray) -> Metrics:
            return {
                "accuracy": share_metric(hits_P[drawn_N]),
                "margin": mean_metric(margins_P[drawn_N], "nats", resamples),
                "likelihood_accuracy": share_metric(likelier_P[drawn_N]),
            }

        return rows.metrics(measure)

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, None, self.columns, self.config.limit, KEY)

    def _scores(self, model: nn.Module, examples: Sequence[Example]) -> np.ndarray:
        """Return log p of the chosen and the rejected answer of each pair, [P, 2]."""
        order = sorted(range(len(examples)), key=lambda index: -len(examples[index]["input_ids"]))
        found_P2 = np.zeros((len(examples), 2))
        device = next(model.parameters()).device
        for begin in range(0, len(order), self.config.batch_size):
            indices = order[begin : begin + self.config.batch_size]
            batch = collate_pairs([examples[index] for index in indices], share_prompt=False)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            sums = answer_sums(token_log_probs(model, batch).double(), batch)
            for side, sum_P in enumerate(sums):
                found_P2[indices, side] = sum_P.cpu().numpy()
        return found_P2


def _examples(rows: EvaluatedRows, bundle: Bundle) -> list[Example]:
    try:
        return [pair.branched() for pair in pairs_of(rows.rows, bundle.tokenizer)]
    except RowError as error:
        raise DataError(f"{KEY}: pair {error.index + 1}: {error.reason}") from error
