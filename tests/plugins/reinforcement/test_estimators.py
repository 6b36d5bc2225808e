"""Advantages, whitening and divergences against what they are by definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ontogeny_plugins.reinforcement.estimators import (
    Total,
    advantages_and_returns,
    explained_variance,
    group_relative,
    k3,
    leave_one_out,
    whitened,
)
from ontogeny_plugins.reinforcement.losses import policy_losses, value_losses

LENGTHS = (5, 1, 3)


@pytest.fixture
def mask() -> Tensor:
    return (torch.arange(5) < torch.tensor(LENGTHS)[:, None]).double()


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    """Return rewards and values that are not 0 behind the ends either."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    return rewards, values


def test_with_lambda_one_an_advantage_is_the_discounted_return_less_the_value(
    drawn: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    rewards, values = drawn
    found, returns = advantages_and_returns(rewards, values, mask, gamma=0.9, lam=1.0)
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            later = range(place, length)
            expected = sum(0.9 ** (step - place) * float(rewards[row, step]) for step in later)
            assert returns[row, place].item() == pytest.approx(expected)
            assert found[row, place].item() == pytest.approx(expected - float(values[row, place]))


def test_with_lambda_zero_an_advantage_is_the_error_of_one_step(
    drawn: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    rewards, values = drawn
    found, _ = advantages_and_returns(rewards, values, mask, gamma=0.9, lam=0.0)
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            following = float(values[row, place + 1]) if place + 1 < length else 0.0
            expected = float(rewards[row, place]) + 0.9 * following - float(values[row, place])
            assert found[row, place].item() == pytest.approx(expected)


def test_an_advantage_is_the_weighted_sum_of_all_later_errors(
    drawn: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    rewards, values = drawn
    errors, _ = advantages_and_returns(rewards, values, mask, gamma=0.9, lam=0.0)
    found, _ = advantages_and_returns(rewards, values, mask, gamma=0.9, lam=0.7)
    expected = sum((0.9 * 0.7) ** step * float(errors[0, 1 + step]) for step in range(4))
    assert found[0, 1].item() == pytest.approx(expected)


def test_nothing_is_left_behind_the_end_of_an_answer(
    drawn: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    for found in advantages_and_returns(*drawn, mask, gamma=1.0, lam=0.95):
        assert (found[mask == 0] == 0).all()


def test_whitened_values_have_mean_0_and_variance_1_over_real_tokens(
    drawn: tuple[Tensor, Tensor], mask: Tensor
) -> None:
    white = whitened(drawn[0], mask, Total())[mask == 1]
    assert white.mean().item() == pytest.approx(0, abs=1e-9)
    assert white.var(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_may_keep_the_mean(drawn: tuple[Tensor, Tensor], mask: Tensor) -> None:
    white = whitened(drawn[0], mask, Total(), shift_mean=False)[mask == 1]
    assert white.mean().item() == pytest.approx(drawn[0][mask == 1].mean().item())


def test_the_baseline_of_an_answer_is_the_mean_of_the_others() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert leave_one_out(rewards, 3).tolist() == pytest.approx([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])


def test_advantages_within_a_group_are_over_the_deviation_of_group_batch_or_nothing() -> None:
    rewards = torch.tensor([1.0, 3.0, 0.0, 8.0])
    centred = torch.tensor([-1.0, 1.0, -4.0, 4.0])
    group = group_relative(rewards, 2, "group", Total())
    assert group.tolist() == pytest.approx([-0.7071, 0.7071, -0.7071, 0.7071], abs=1e-3)
    batch = group_relative(rewards, 2, "batch", Total())
    assert torch.allclose(batch, centred / (rewards.std(correction=0) + 1e-4))
    assert group_relative(rewards, 2, "none", Total()).tolist() == centred.tolist()


def test_a_group_of_equal_rewards_teaches_nothing() -> None:
    assert group_relative(torch.ones(4), 4, "group", Total()).tolist() == [0.0] * 4


def test_k3_is_never_negative_and_has_the_expectation_of_the_divergence() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 50, dtype=torch.float64).log_softmax(-1)
    log_ratios = ours - theirs
    assert (k3(log_ratios) >= 0).all()
    expected = (ours.exp() * log_ratios).sum().item()
    assert (ours.exp() * k3(log_ratios)).sum().item() == pytest.approx(expected)


def test_explained_variance_is_1_for_the_truth_and_0_for_a_constant(mask: Tensor) -> None:
    returns = torch.arange(15.0).view(3, 5).double()
    assert explained_variance(returns, returns, mask, Total()).item() == pytest.approx(1)
    constant = torch.full_like(returns, 7)
    assert explained_variance(constant, returns, mask, Total()).item() == pytest.approx(0)
    assert explained_variance(constant, constant, mask, Total()).item() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # far enough: no more is to be gained
        (0.5, 2.0, -1.0, -2.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),
    ],
)
def test_the_policy_loss_is_flat_where_the_ratio_has_gone_far_enough(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    ratios = torch.tensor([ratio], requires_grad=True)
    losses, clipped = policy_losses(ratios, torch.tensor([advantage]), 0.2, 0.2)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.item() == pytest.approx(loss)
    assert ratios.grad is not None
    assert ratios.grad.item() == pytest.approx(slope)
    assert clipped.item() == float(slope == 0)


def test_the_value_loss_is_the_larger_of_the_free_and_the_clipped_one() -> None:
    values, old, returns = (
        torch.tensor([1.0, 1.0]),
        torch.tensor([0.0, 0.9]),
        torch.tensor([2.0, 2.0]),
    )
    losses, clipped = value_losses(values, old, returns, 0.2)
    assert losses.tolist() == pytest.approx([1.8**2 / 2, 0.5])
    assert clipped.tolist() == [1.0, 0.0]
    assert value_losses(values, old, returns, None)[0].tolist() == pytest.approx([0.5, 0.5])
