"""PPO in its KL-controlled form: a penalty in the reward of every token, and learnt values."""
# A answers, T tokens of the longest answer, M tokens of all answers, N tokens of a batch

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.objective import Batch, Loss
from ontogeny_plugins.reinforcement.estimators import (
    advantages_and_returns,
    explained_variance,
    k3,
    whitened,
)
from ontogeny_plugins.reinforcement.kl_control import KLControl
from ontogeny_plugins.reinforcement.losses import policy_losses, value_losses
from ontogeny_plugins.reinforcement.objective import Rollout, RolloutObjective
from ontogeny_plugins.reinforcement.value import values_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import lightning as L
    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.reinforcement import PPO


class PPOObjective(RolloutObjective):
    """Clipped updates of the policy and of its values, several for each rollout."""

    def __init__(self, config: PPO) -> None:
        super().__init__(config)
        self.config = config
        self.control = KLControl(config.kl, config.kl_target, config.kl_horizon)

    def trained_beside(self, bundle: Bundle) -> nn.Module:
        """Return what predicts values."""
        self.values = values_of(self.config, bundle, self.companions)
        return self.values.module

    def callbacks(self, steps: int) -> Iterable[L.Callback]:
        """Add what keeps the price of divergence."""
        return [*super().callbacks(steps), self.control]

    def observe(self, rollout: Rollout) -> None:
        """Steer the price of divergence."""
        super().observe(rollout)
        kl_A = rollout.by_answer["kl"]
        mean = self.total(torch.stack([kl_A.sum(), kl_A.new_tensor(len(kl_A))]))
        kl, answers = mean.tolist()
        self.control.update(kl / answers, int(answers))

    def first_pass(
        self, policy: nn.Module, batch: Batch, *, wants_log_probs: bool
    ) -> dict[str, Tensor]:
        """Add the values, read from the same states where they can be."""
        found: dict[str, Tensor] = {}
        hidden_ND = None
        if wants_log_probs or self.values.reads_states:
            hidden_ND, labels_N, layer = self.states(policy, batch)
            if wants_log_probs:
                found["log_probs"] = self.log_probs(hidden_ND, labels_N, layer)
        return {**found, "values": self.values(policy, batch, hidden_ND)}

    def finish(self, rollout: Rollout) -> None:
        """Add advantages and returns."""
        answers, config = rollout.answers, self.config
        mask_AT = answers.mask_AT.float()
        values_AT = answers.by_answer(rollout.flat["values"])
        rewards_AT = self._token_rewards(rollout)
        if config.whiten_rewards:
            rewards_AT = whitened(rewards_AT, mask_AT, self.total, shift_mean=False)
        advantages_AT, returns_AT = advantages_and_returns(
            rewards_AT, values_AT, mask_AT, gamma=config.gamma, lam=config.lam
        )
        if config.whiten_advantages:
            advantages_AT = whitened(advantages_AT, mask_AT, self.total)
        rollout.flat |= {
            "advantages": answers.flat(advantages_AT),
            "returns": answers.flat(returns_AT),
        }
        explained = explained_variance(values_AT, returns_AT, mask_AT, self.total)
        like_A = torch.ones_like(rollout.rewards_A)
        rollout.by_answer |= {
            "reward_with_kl": rewards_AT.sum(1),
            "explained_variance": like_A * explained,
            "kl_beta": like_A * self.control.beta,
        }

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over tokens of the clipped policy loss and of the value loss."""
        config = self.config
        hidden_ND, labels_N, layer = self.states(model, batch)
        found_N = self.log_probs(hidden_ND, labels_N, layer)
        values_N = self.values(model, batch, hidden_ND)
        log_ratios_N = found_N - batch["old_log_probs"]
        ratios_N = log_ratios_N.exp()
        policy_N, clipped_N = policy_losses(ratios_N, batch["advantages"], config.clip, config.clip)
        value_N, cut_N = value_losses(
            values_N, batch["values"], batch["returns"], config.value_clip
        )
        total = (policy_N + config.value_coefficient * value_N).sum()
        tokens = torch.tensor(float(len(found_N)), device=found_N.device)
        metrics = {
            "policy_loss": policy_N.sum(),
            "value_loss": value_N.sum(),
            "clipped": clipped_N.sum(),
            "value_clipped": cut_N.sum(),
            "ratio": ratios_N.sum(),
            "kl_to_rollout": k3(-log_ratios_N).sum(),
        }
        return Loss(total, tokens, {**metrics, **self.metrics(batch)})

    def _token_rewards(self, rollout: Rollout) -> Tensor:
        """Return -β (log π - log π_ref) of each token, and the reward at the last one: [A, T]."""
        answers = rollout.answers
        rewards_AT = answers.by_answer(-self.control.beta * rollout.log_ratios)
        last_A1 = answers.lengths_A[:, None] - 1
        return rewards_AT.scatter_add(1, last_A1, rollout.rewards_A[:, None].to(rewards_AT.dtype))

    def _beside_name(self) -> str:
        return self.values.name
