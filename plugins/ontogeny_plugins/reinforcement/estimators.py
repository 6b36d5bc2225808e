"""What PPO, RLOO and GRPO compute of rewards: advantages, returns, divergences."""
# A answers, T tokens of the longest answer, N tokens, G answers to a prompt

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8


def advantages_and_returns(
    rewards_AT: Tensor, values_AT: Tensor, mask_AT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return GAE and what values are to become (Schulman et al. 2016, eq. 16).

    A_t = Σ (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} - V_t, and V = 0 after the last token. Returns
    are A + V; all is 0 where the mask is.
    """
    values_AT, rewards_AT = values_AT * mask_AT, rewards_AT * mask_AT
    later_A = torch.zeros_like(values_AT[:, 0])
    found = torch.zeros_like(values_AT)
    for place in reversed(range(values_AT.shape[1])):
        following_A = values_AT[:, place + 1] if place + 1 < values_AT.shape[1] else 0.0
        delta_A = rewards_AT[:, place] + gamma * following_A - values_AT[:, place]
        # Answers begin together and end apart: what is behind the end of one is 0 already.
        later_A = (delta_A + gamma * lam * later_A) * mask_AT[:, place]
        found[:, place] = later_A
    return found, (found + values_AT) * mask_AT


def moments(values: Tensor, mask: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Return mean and variance of what the mask names, over all ranks."""
    count, summed = total(torch.stack([mask.sum(), (values * mask).sum()])).unbind()
    mean = summed / count.clamp(min=1)
    squares = total((((values - mean) ** 2) * mask).sum())
    return mean, squares / count.clamp(min=1)


def whitened(values: Tensor, mask: Tensor, total: Total, *, shift_mean: bool = True) -> Tensor:
    """Return values of variance 1 over what the mask names; of mean 0, or of the mean they had."""
    mean, variance = moments(values, mask, total)
    white = (values - mean) * (variance + EPSILON).rsqrt()
    return (white if shift_mean else white + mean) * mask


def leave_one_out(rewards_A: Tensor, samples: int) -> Tensor:
    """Return each reward less the mean of the others in its group (Ahmadian et al. 2024, eq. 8)."""
    rewards_GS = rewards_A.view(-1, samples)
    others_GS = (rewards_GS.sum(1, keepdim=True) - rewards_GS) / (samples - 1)
    return (rewards_GS - others_GS).flatten()


def group_relative(rewards_A: Tensor, samples: int, scale: str, total: Total) -> Tensor:
    """Return each reward less its group's mean, over a deviation (Shao et al. 2024, sec. 4.1.2).

    `scale` says of what: the group, the batch over all ranks, or none (Dr. GRPO).
    """
    rewards_GS = rewards_A.view(-1, samples)
    centred_GS = rewards_GS - rewards_GS.mean(1, keepdim=True)
    if scale == "group":
        centred_GS = centred_GS / (rewards_GS.std(1, keepdim=True) + 1e-4)
    elif scale == "batch":
        _, variance = moments(rewards_GS, torch.ones_like(rewards_GS), total)
        centred_GS = centred_GS / (variance.sqrt() + 1e-4)
    return centred_GS.flatten()


def k3(log_ratios: Tensor) -> Tensor:
    """Return exp(-d) - 1 + d of d = log π - log π_ref: never negative, with k1's expectation.

    Schulman, "Approximating KL divergence" (2020).
    """
    return torch.expm1(-log_ratios) + log_ratios


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total) -> Tensor:
    """Return 1 - Var(R - V) / Var(R): 1 is a perfect prediction, 0 none; of constant returns 0."""
    _, variance = moments(returns, mask, total)
    _, rest = moments(returns - values, mask, total)
    share = 1 - rest / variance.clamp(min=EPSILON)
    return torch.where(variance > EPSILON, share, torch.zeros_like(share))


class Total:
    """Adds what all ranks have; alone, it returns what it is given."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return the sum over ranks."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values
