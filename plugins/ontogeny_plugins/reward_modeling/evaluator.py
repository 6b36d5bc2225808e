"""What a reward model prefers: how often rightly, how surely, and whether by length."""
# P pairs

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.chat.pairs import COLUMNS, pairs_of
from ontogeny.errors import DataError, RowError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.intervals import bootstrap_metric, mean_metric, share_metric
from ontogeny_plugins.reward_modeling.scoring import collate_answers, rewards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example
    from ontogeny_plugins.reward_modeling import RewardMetrics

KEY = "evaluator.reward"


class RewardEvaluator(Evaluator):
    """Pairwise accuracy, calibration of P(correct | margin), and the bias towards length."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: RewardMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for pairs that cannot be read, and for a model without a reward."""
        examples = _examples(self._rows(data), bundle)
        self._rewards(cast("nn.Module", bundle.model), examples[:1])

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return metrics of all pairs, and of each source where there are several."""
        rows = self._rows(data)
        examples = _examples(rows, bundle)
        rewards_P2 = self._rewards(cast("nn.Module", bundle.model), examples)
        lengths_P2 = np.array([_lengths(example) for example in examples])
        margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        longer_P = lengths_P2[:, 0] - lengths_P2[:, 1]
        hits_P = np.where(margins_P == 0, 0.5, margins_P > 0)  # a tie is a guess
        options = self.config

        def measure(drawn_N: np.ndarray) -> Metrics:
            margins_N, longer_N = margins_P[drawn_N], longer_P[drawn_N]

            def calibration(again: np.ndarray) -> float:
                return calibration_error(margins_N[again], options.bins)

            def correlation(again: np.ndarray) -> float:
                return rank_correlation(margins_N[again], longer_N[again])

            count, resamples = len(drawn_N), options.resamples
            return {
                "reward_accuracy": share_metric(hits_P[drawn_N]),
                "margin": mean_metric(margins_N, "1", resamples),
                "calibration_error": bootstrap_metric(calibration, count, "1", resamples),
                "length_correlation": bootstrap_metric(correlation, count, "1", resamples),
            }

        return rows.metrics(measure)

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, None, self.columns, self.config.limit, KEY)

    @torch.no_grad()
    def _rewards(self, model: nn.Module, examples: Sequence[Example]) -> np.ndarray:
        """Return the rewards of the chosen and the rejected answer of each pair, [P, 2]."""
        order = sorted(range(len(examples)), key=lambda index: -len(examples[index]["input_ids"]))
        found_P2 = np.zeros((len(examples), 2))
        device = next(model.parameters()).device
        size = max(1, self.config.batch_size // 2)
        for begin in range(0, len(order), size):
            indices = order[begin : begin + size]
            batch = collate_answers([examples[index] for index in indices])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            found_P2[indices] = rewards(model, batch).double().view(-1, 2).cpu().numpy()
        return found_P2


def calibration_error(margins_P: np.ndarray, bins: int) -> float:
    """Return the mean gap between P(correct) = σ(|margin|) and how often that is so, by bins.

    Bins are equal parts of 0.5 to 1, weighted by their pairs (Naeini et al., 2015); a tie is half
    right.
    """
    sure_P = 1 / (1 + np.exp(-np.abs(margins_P)))
    right_P = np.where(margins_P == 0, 0.5, margins_P > 0)
    place_P = np.minimum(((sure_P - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = np.bincount(place_P, weights=sure_P - right_P, minlength=bins)
    return float(np.abs(gaps).sum() / len(margins_P))


def rank_correlation(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return Spearman's correlation, of mean ranks for ties; 0 where one side is constant."""
    left_N, right_N = _ranks(left_N), _ranks(right_N)
    left_N, right_N = left_N - left_N.mean(), right_N - right_N.mean()
    scale = float(np.sqrt((left_N**2).sum() * (right_N**2).sum()))
    return float((left_N * right_N).sum()) / scale if scale else 0.0


def _ranks(values_N: np.ndarray) -> np.ndarray:
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place_N]


def _lengths(example: Example) -> list[int]:
    """Return how many tokens the chosen and the rejected answer have."""
    return [int((example["branch_ids"] == branch).sum()) for branch in (1, 2)]


def _examples(rows: EvaluatedRows, bundle: Bundle) -> list[Example]:
    try:
        return [pair.branched() for pair in pairs_of(rows.rows, bundle.tokenizer)]
    except RowError as error:
        raise DataError(f"{KEY}: pair {error.index + 1}: {error.reason}") from error
