"""GRPO: advantages within the group of answers to a prompt, and k3 in the loss."""
# A answers, N tokens of a batch

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.objective import Batch, Loss
from ontogeny_plugins.reinforcement.estimators import group_relative, k3
from ontogeny_plugins.reinforcement.losses import policy_losses
from ontogeny_plugins.reinforcement.objective import Rollout, RolloutObjective

if TYPE_CHECKING:
    from torch import nn

    from ontogeny_plugins.reinforcement import GRPO


class GRPOObjective(RolloutObjective):
    """Group-relative policy optimisation, in the ways in which tokens may be averaged."""

    def __init__(self, config: GRPO) -> None:
        super().__init__(config)
        self.config = config

    def finish(self, rollout: Rollout) -> None:
        """Add advantages and the reference; tell groups that all got the same."""
        config, answers = self.config, rollout.answers
        advantages_A = group_relative(rollout.rewards_A, config.samples, config.scale, self.total)
        learnt_A = torch.ones_like(advantages_A)
        if config.mask_cut:
            learnt_A = answers.ended_A.float()
        spread_G = rollout.rewards_A.view(-1, config.samples).std(1)
        rollout.by_answer["equal_groups"] = (
            (spread_G == 0).float().repeat_interleave(config.samples)
        )
        rollout.flat |= {
            "advantages": advantages_A[answers.owners_M],
            "learnt": learnt_A[answers.owners_M],
            "weights": self._weights(answers.lengths_A)[answers.owners_M],
            "reference_log_probs": rollout.reference_M,
        }

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over tokens of the clipped loss and β k3, weighted as `average` says."""
        config = self.config
        found_N = self.scores(model, batch)
        log_ratios_N = found_N - batch["old_log_probs"]
        ratios_N = self._ratios(log_ratios_N, batch)
        high = config.clip if config.clip_high is None else config.clip_high
        losses_N, clipped_N = policy_losses(ratios_N, batch["advantages"], config.clip, high)
        # k3 of log π_ref - log π: its expectation under π is the divergence.
        kl_N = k3(found_N - batch["reference_log_probs"])
        if config.kl:
            losses_N = losses_N + config.kl * kl_N
        weights_N = batch["weights"] * batch["learnt"]
        tokens = torch.tensor(float(len(found_N)), device=found_N.device)
        metrics = {
            "clipped": (clipped_N.sum(), tokens),
            "ratio": (ratios_N.sum(), tokens),
            "kl_in_loss": (kl_N.sum(), tokens),
            "kl_to_rollout": (k3(-log_ratios_N).sum(), tokens),
        }
        total = (losses_N * weights_N).sum()
        return Loss(total, self._count(batch), {**metrics, **self.metrics(batch)})

    def _ratios(self, log_ratios_N: Tensor, batch: Batch) -> Tensor:
        """Return π/π_old of tokens, or the geometric mean of an answer's (GSPO, eq. 7)."""
        if self.config.importance == "token":
            return log_ratios_N.exp()
        owners_N, zeros_A = batch["owners"], torch.zeros_like(batch["answers"])
        sums_A = zeros_A.index_add(0, owners_N, log_ratios_N)
        lengths_A = zeros_A.index_add(0, owners_N, torch.ones_like(log_ratios_N))
        return (sums_A / lengths_A).exp()[owners_N]

    def _weights(self, lengths_A: Tensor) -> Tensor:
        """Return what a token counts in each answer, where the sum is divided by `_count`."""
        if self.config.average == "grpo":
            return 1 / lengths_A.float()
        if self.config.average == "dr_grpo":
            return torch.full_like(lengths_A, 1 / self.config.max_tokens, dtype=torch.float32)
        return torch.ones_like(lengths_A, dtype=torch.float32)

    def _count(self, batch: Batch) -> Tensor:
        """Return the number of answers, or of tokens that are learnt from (DAPO, eq. 8)."""
        return batch["learnt"].sum() if self.config.average == "dapo" else batch["answers"].sum()

    def _reference_kind(self) -> str:
        return self.config.reference if self.config.kl else "none"
