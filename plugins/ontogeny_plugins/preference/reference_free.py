"""Preference optimisation without a reference: ORPO, SimPO, CPO."""
# N scored tokens, P pairs

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from ontogeny.objective import Loss
from ontogeny_plugins.preference.pair_objective import PairObjective
from ontogeny_plugins.preference.scoring import answer_sums, token_log_probs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ontogeny.objective import Batch
    from ontogeny_plugins.preference import CPO, ORPO, SimPO

Sides = tuple["Tensor", "Tensor"]  # a value of the chosen and of the rejected answers, [P] each


class ReferenceFree(PairObjective):
    """A loss of log-probabilities alone."""

    @abstractmethod
    def losses(self, sums: Sides, lengths: Sides) -> Tensor:
        """Return the loss of each pair, [P], given Σ log p of its answers and their lengths."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the sum over pairs, and how often the chosen answer is likelier a token."""
        log_probs_N = token_log_probs(model, batch)
        sums = answer_sums(log_probs_N, batch)
        counts = answer_sums(torch.ones_like(log_probs_N), batch)
        lengths = (counts[0].clamp(min=1), counts[1].clamp(min=1))
        means = [total / length for total, length in zip(sums, lengths, strict=True)]
        metrics = {
            "accuracy": (means[0] > means[1]).float().sum(),
            "nats_per_token_chosen": -means[0].sum(),
            "nats_per_token_rejected": -means[1].sum(),
        }
        return Loss(self.losses(sums, lengths).sum(), batch["pairs"].sum(), metrics)


class ORPOObjective(ReferenceFree):
    """NLL of chosen - β log σ(log odds ratio), p = exp(mean log p) (Hong et al. 2024, eq. 6)."""

    def __init__(self, config: ORPO) -> None:
        super().__init__(share_prompt=config.share_prompt)
        self.config = config

    def losses(self, sums: Sides, lengths: Sides) -> Tensor:
        """Return the loss of each pair, [P]."""
        chosen_P, rejected_P = sums[0] / lengths[0], sums[1] / lengths[1]
        odds_P = chosen_P - log1mexp(chosen_P) - (rejected_P - log1mexp(rejected_P))
        return -chosen_P - self.config.beta * logsigmoid(odds_P)


class SimPOObjective(ReferenceFree):
    """-log σ(β(mean log p_w - mean log p_l) - γ) (Meng et al. 2024, eq. 6)."""

    def __init__(self, config: SimPO) -> None:
        super().__init__(share_prompt=config.share_prompt)
        self.config = config

    def losses(self, sums: Sides, lengths: Sides) -> Tensor:
        """Return the loss of each pair, [P]."""
        margin_P = self.config.beta * (sums[0] / lengths[0] - sums[1] / lengths[1])
        return -logsigmoid(margin_P - self.config.gamma)


class CPOObjective(ReferenceFree):
    """-log σ(β(log p_w - log p_l)) + α NLL of chosen, a token (Xu et al. 2024, eq. 5)."""

    def __init__(self, config: CPO) -> None:
        super().__init__(share_prompt=config.share_prompt)
        self.config = config

    def losses(self, sums: Sides, lengths: Sides) -> Tensor:
        """Return the loss of each pair, [P]."""
        preference_P = -logsigmoid(self.config.beta * (sums[0] - sums[1]))
        return preference_P - self.config.alpha * sums[0] / lengths[0]


def log1mexp(log_p: Tensor) -> Tensor:
    """Return log(1 - p) of log p ≤ 0, exact at both ends (Mächler, 2012), and finite at p = 1."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    near = log_p > -0.6931471805599453
    one = torch.log(-torch.expm1(torch.where(near, log_p, -1.0)))
    other = torch.log1p(-torch.exp(torch.where(near, -1.0, log_p)))
    return torch.where(near, one, other)
