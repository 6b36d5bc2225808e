"""REINFORCE leave-one-out: an answer is one action, and the others to its prompt the baseline."""
# A answers, N tokens of a batch

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ontogeny.objective import Batch, Loss
from ontogeny_plugins.reinforcement.estimators import k3, leave_one_out, whitened
from ontogeny_plugins.reinforcement.losses import policy_losses
from ontogeny_plugins.reinforcement.objective import Rollout, RolloutObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ontogeny_plugins.reinforcement import RLOO


class RLOOObjective(RolloutObjective):
    """Ratios, rewards and divergences of whole answers (Ahmadian et al. 2024)."""

    def __init__(self, config: RLOO) -> None:
        super().__init__(config)
        self.config = config

    def finish(self, rollout: Rollout) -> None:
        """Add the advantage of each answer, which is that of its tokens."""
        with_kl_A = rollout.rewards_A - self.config.kl * rollout.by_answer["kl"]
        advantages_A = leave_one_out(with_kl_A, self.config.samples)
        if self.config.whiten_advantages:
            advantages_A = whitened(advantages_A, torch.ones_like(advantages_A), self.total)
        rollout.by_answer["reward_with_kl"] = with_kl_A
        rollout.flat["advantages"] = advantages_A[rollout.answers.owners_M]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over answers of the clipped loss."""
        log_ratios_N = self.scores(model, batch) - batch["old_log_probs"]
        sums_A = batch["answers"].new_zeros(len(batch["answers"]))
        log_ratios_A = sums_A.index_add(0, batch["owners"], log_ratios_N)
        advantages_A = sums_A.index_copy(0, batch["owners"], batch["advantages"])
        clip = self.config.clip
        losses_A, clipped_A = policy_losses(log_ratios_A.exp(), advantages_A, clip, clip)
        tokens = torch.tensor(float(len(log_ratios_N)), device=sums_A.device)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "clipped": clipped_A.sum(),
            "ratio": log_ratios_A.exp().sum(),
            "kl_to_rollout": (k3(-log_ratios_N).sum(), tokens),
        }
        return Loss(losses_A.sum(), batch["answers"].sum(), {**metrics, **self.metrics(batch)})
