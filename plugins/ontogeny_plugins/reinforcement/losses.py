"""The clipped losses of a token, or of an answer: not divided, not summed."""
# N tokens or answers

from __future__ import annotations

import torch
from torch import Tensor


def policy_losses(
    ratios_N: Tensor, advantages_N: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Return -min(ρA, clip(ρ, 1 - low, 1 + high) A), and where the clip acts.

    Schulman et al. 2017, eq. 7.
    """
    free_N = -advantages_N * ratios_N
    clipped_N = -advantages_N * ratios_N.clamp(1 - low, 1 + high)
    return torch.maximum(free_N, clipped_N), (clipped_N > free_N).float()


def value_losses(
    values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Return ½ max((V - R)², (V_clip - R)²), and where the clip acts (Huang et al. 2024, 3.6).

    V_clip is within `clip` of the value at the rollout.
    """
    free_N = (values_N - returns_N) ** 2
    if clip is None:
        return free_N / 2, torch.zeros_like(free_N)
    near_N = old_N + (values_N - old_N).clamp(-clip, clip)
    clipped_N = (near_N - returns_N) ** 2
    return torch.maximum(free_N, clipped_N) / 2, (clipped_N > free_N).float()
