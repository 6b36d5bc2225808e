"""What a win rate would be if both answers were of one length (Dubois et al. 2024, eq. 2)."""
# N comparisons

from __future__ import annotations

import numpy as np

STEPS = 25
RIDGE = 1e-2  # on both weights: where one side always wins, they would have no end


def length_controlled(wins_N: np.ndarray, longer_N: np.ndarray) -> float:
    """Return the win rate at equal lengths: σ of the intercept of a logistic regression.

    It is of wins (1, ½ for a tie, 0) on tanh of the difference in length over its deviation, by
    Newton's method. Where lengths never differ it is the win rate, but for the ridge.
    """
    spread = float(longer_N.std())
    inputs_N2 = np.stack([np.ones(len(wins_N)), np.tanh(longer_N / (spread or 1.0))], axis=1)
    weights_2 = np.zeros(2)
    for _ in range(STEPS):
        found_N = 1 / (1 + np.exp(-inputs_N2 @ weights_2))
        gradient_2 = inputs_N2.T @ (found_N - wins_N) + RIDGE * weights_2
        curvature_22 = (inputs_N2.T * (found_N * (1 - found_N))) @ inputs_N2 + RIDGE * np.eye(2)
        change_2 = np.linalg.solve(curvature_22, gradient_2)
        weights_2 = weights_2 - np.clip(change_2, -2, 2)  # far from the end, a step can be too long
    return float(1 / (1 + np.exp(-weights_2[0])))
