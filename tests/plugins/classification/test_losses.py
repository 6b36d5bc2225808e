"""Losses of whole texts against torch's own, finite sums by hand, and closed forms."""
# B rows, C classes, K thresholds

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ontogeny_plugins.classification.losses import (
    multi_label,
    ordinal,
    ordinal_probabilities,
    regression,
    single_label,
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_single_labels_over_their_weight_are_torchs_weighted_mean(smoothing: float) -> None:
    torch.manual_seed(0)
    logits_BC, targets_B = torch.randn(9, 4), torch.randint(4, (9,))
    weights_C = torch.tensor([0.5, 2.0, 1.0, 3.0])
    loss = single_label(logits_BC, targets_B, weights_C, smoothing)
    expected = nn.CrossEntropyLoss(weights_C, label_smoothing=smoothing)(logits_BC, targets_B)
    torch.testing.assert_close(loss.total / loss.weight, expected)


def test_the_accuracy_is_weighted_as_the_loss_is() -> None:
    logits_BC = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    loss = single_label(logits_BC, torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0]), 0.0)
    assert float(loss.metrics["accuracy"] / loss.weight) == pytest.approx(3 / 5)


def test_logits_of_zero_cost_the_logarithm_of_the_classes() -> None:
    loss = single_label(torch.zeros(5, 7), torch.arange(5), torch.ones(7), 0.0)
    assert float(loss.total / loss.weight) == pytest.approx(math.log(7))


def test_several_labels_over_their_weight_are_torchs_mean() -> None:
    torch.manual_seed(0)
    logits_BC, targets_BC = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    weights_C = torch.tensor([1.0, 4.0, 0.5])
    loss = multi_label(logits_BC, targets_BC, weights_C, 0.0)
    expected = nn.BCEWithLogitsLoss(pos_weight=weights_C)(logits_BC, targets_BC)
    torch.testing.assert_close(loss.total / loss.weight, expected)


def test_a_number_costs_the_squared_error() -> None:
    loss = regression(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.5]), torch.ones(1), 0.0)
    assert float(loss.total) == pytest.approx(4.0 + 0.25)
    assert float(loss.weight) == 2


def corn_by_hand(logits: list[list[float]], targets: list[int]) -> tuple[float, int]:
    """Shi et al. 2023: task k sees the rows with y >= k and answers whether y > k."""
    nats, asked = 0.0, 0
    for row, target in zip(logits, targets, strict=True):
        for threshold, logit in enumerate(row):
            if target >= threshold:
                probability = 1 / (1 + math.exp(-logit))
                nats -= math.log(probability if target > threshold else 1 - probability)
                asked += 1
    return nats, asked


def test_ordered_labels_cost_what_corn_says() -> None:
    logits = [[0.3, -1.2, 2.0], [1.5, 0.4, -0.7], [-0.2, 0.9, 0.1], [2.2, -0.5, 0.8]]
    targets = [0, 3, 1, 2]
    loss = ordinal(torch.tensor(logits), torch.tensor(targets), torch.ones(4), 0.0)
    nats, asked = corn_by_hand(logits, targets)
    assert float(loss.total) == pytest.approx(nats, rel=1e-5)
    assert float(loss.weight) == asked


def test_a_row_of_an_ordered_class_counts_by_its_weight() -> None:
    logits_BK, targets_B = torch.randn(1, 3), torch.tensor([2])
    once = ordinal(logits_BK, targets_B, torch.ones(4), 0.0)
    thrice = ordinal(logits_BK, targets_B, torch.tensor([1.0, 1.0, 3.0, 1.0]), 0.0)
    torch.testing.assert_close(thrice.total, 3 * once.total)
    torch.testing.assert_close(thrice.weight, 3 * once.weight)


def test_probabilities_of_ordered_classes_are_consistent_and_sum_to_one() -> None:
    torch.manual_seed(0)
    logits_BK = 3 * torch.randn(50, 4)
    found_BC = ordinal_probabilities(logits_BK)
    assert bool((found_BC >= 0).all())
    torch.testing.assert_close(found_BC.sum(-1), torch.ones(50))
    more_than_one = logits_BK[:, 0].sigmoid() * logits_BK[:, 1].sigmoid()
    torch.testing.assert_close(found_BC[:, 2:].sum(-1), more_than_one)


def test_corn_learns_a_distribution_exactly() -> None:
    """With one output vector for all rows the best CORN gives the shares of the classes."""
    targets_B = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    logits_K = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.LBFGS([logits_K], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = ordinal(logits_K.expand(10, 2), targets_B, torch.ones(3), 0.0).total
        total.backward()
        return total

    optimizer.step(closure)
    found_C = ordinal_probabilities(logits_K.detach()[None])[0]
    torch.testing.assert_close(found_C, torch.tensor([0.5, 0.3, 0.2]), rtol=1e-3, atol=1e-3)
