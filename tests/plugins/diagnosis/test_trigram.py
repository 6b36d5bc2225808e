"""The trigram model and its mixture: numbers by hand, and against a search."""

from __future__ import annotations

import numpy as np
import pytest

from ontogeny_plugins.diagnosis.trigram import Trigram, mixed


def test_probabilities_are_those_of_witten_and_bell() -> None:
    model = Trigram([[0, 1, 2, 1, 2, 1]], vocabulary=4)
    # Unigrams of what is predicted: 1 three times, 2 twice, two different ones.
    one = (3 + 2 * 0.25) / 7
    # After 2 comes 1, twice; after (1, 2) as well: one different token each.
    after_two = (2 + one) / 3
    after_both = (2 + after_two) / 3
    assert model.probabilities([1, 2, 1])[1] == pytest.approx(after_both)
    assert model.probabilities([3, 1])[0] == pytest.approx(one)  # 3 was never followed
    assert model.probabilities([3, 3])[0] == pytest.approx(2 * 0.25 / 7)  # nor seen


def test_probabilities_sum_to_one_after_every_history() -> None:
    lines = [
        [int(token) for token in row] for row in np.random.default_rng(0).integers(0, 5, (9, 8))
    ]
    model = Trigram(lines, vocabulary=7)
    for history in ([0], [6], [1, 2], [4, 6], [6, 6]):
        total = sum(model.probabilities([*history, token])[-1] for token in range(7))
        assert total == pytest.approx(1)


def test_an_empty_text_leaves_a_uniform_distribution() -> None:
    assert Trigram([], vocabulary=8).probabilities([1, 2, 3]).tolist() == [1 / 8, 1 / 8]


def test_the_weight_of_the_mixture_is_the_likeliest_one() -> None:
    draw = np.random.default_rng(1)
    model, other = draw.uniform(0.01, 0.6, 500), draw.uniform(0.01, 0.6, 500)
    found = -np.log(mixed(model, other)).sum()
    weights = np.linspace(0, 1, 1001)[:, None]
    best = (-np.log((1 - weights) * model + weights * other)).sum(1).min()
    assert found == pytest.approx(best, rel=1e-4)


def test_a_mixture_with_nothing_to_add_is_the_first_model() -> None:
    model = np.array([0.5, 0.4, 0.9])
    nats = -np.log(mixed(model, np.full(3, 1e-6))).sum()
    assert nats == pytest.approx(-np.log(model).sum(), abs=1e-6)
