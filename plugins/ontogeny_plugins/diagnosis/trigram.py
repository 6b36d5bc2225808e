"""A small model of what a text alone can teach: which token follows the two before it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ORDER = 3
ROUNDS = 30  # of expectation and maximisation: the weight has converged to three digits


class Trigram:
    """Token trigrams, smoothed by bigrams, unigrams and a uniform distribution.

    Witten & Bell (1991): p(w|h) = (c(hw) + t(h)·p(w|h')) / (c(h) + t(h)), where h' is h without
    its first token and t(h) counts the different tokens that were seen after h.
    """

    def __init__(self, lines: Iterable[Sequence[int]], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self._after: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for line in lines:
            for position in range(1, len(line)):
                for before in range(min(ORDER, position + 1)):
                    self._after[tuple(line[position - before : position])][line[position]] += 1
        self._seen = {history: after.total() for history, after in self._after.items()}

    def probabilities(self, line: Sequence[int]) -> np.ndarray:
        """Return p of every token of a line after its first, [T - 1] float64."""
        return np.array([self._probability(line, at) for at in range(1, len(line))])

    def _probability(self, line: Sequence[int], position: int) -> float:
        probability = 1 / self.vocabulary
        for before in range(min(ORDER, position + 1)):
            after = self._after.get(tuple(line[position - before : position]))
            if after is None:
                break
            seen = self._seen[tuple(line[position - before : position])]
            different = len(after)
            smoothed = after[line[position]] + different * probability
            probability = smoothed / (seen + different)
        return probability


def mixed(model_N: np.ndarray, other_N: np.ndarray) -> np.ndarray:
    """Return probabilities of the mixture of two models that fits best, [N].

    Its one weight maximises the likelihood (expectation-maximisation; Jelinek & Mercer, 1980), so
    it is never worse than the first model alone.
    """
    weight = 0.5
    for _ in range(ROUNDS):
        part_N = weight * other_N
        weight = float((part_N / (part_N + (1 - weight) * model_N)).mean())
    return (1 - weight) * model_N + weight * other_N
