"""Losses of the DPO family, each as its paper has it.

`ratios` are log-ratios log π(y|x) - log π_ref(y|x) of the chosen and the rejected answer of each
pair; with an f-divergence they are f'(π/π_ref) instead. h is β times their difference.
"""
# P pairs

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.preference import DPO


@dataclass(frozen=True)
class Pairs:
    """What the losses are functions of, a value for each pair: [P]."""

    chosen: Tensor  # log-ratios, or f' of them
    rejected: Tensor
    policy: tuple[Tensor, Tensor]  # log π of chosen and rejected
    reference: tuple[Tensor, Tensor]
    tokens: tuple[Tensor, Tensor]  # lengths of the answers

    @property
    def difference(self) -> Tensor:
        """The chosen log-ratio less the rejected one."""
        return self.chosen - self.rejected


Formula = Callable[[Pairs, "DPO"], "Tensor"]


def sigmoid(pairs: Pairs, options: DPO) -> Tensor:
    """-log σ(h), of noisy labels with ε (Rafailov et al. 2023, eq. 7; Mitchell 2023, cDPO)."""
    return _smoothed(options.beta * pairs.difference, options.label_smoothing)


def robust(pairs: Pairs, options: DPO) -> Tensor:
    """Unbiased under labels that are flipped with probability ε (Chowdhury et al. 2024, eq. 13)."""
    h_P, noise = options.beta * pairs.difference, options.label_smoothing
    return (-(1 - noise) * logsigmoid(h_P) + noise * logsigmoid(-h_P)) / (1 - 2 * noise)


def hinge(pairs: Pairs, options: DPO) -> Tensor:
    """max(0, 1 - h) (Zhao et al. 2023, SLiC; Liu et al. 2024, RSO)."""
    return torch.relu(1 - options.beta * pairs.difference)


def ipo(pairs: Pairs, options: DPO) -> Tensor:
    """(D - 1/(2β))² (Azar et al. 2023, eq. 17), D of sums or of means over the tokens."""
    if options.ipo == "summed":
        difference_P = pairs.difference
    else:
        difference_P = pairs.chosen / pairs.tokens[0] - pairs.rejected / pairs.tokens[1]
    return (difference_P - 1 / (2 * options.beta)) ** 2


def sigmoid_norm(pairs: Pairs, options: DPO) -> Tensor:
    """-log σ(β·D) with D of means over the tokens (Tülu 3: Lambert et al. 2024)."""
    difference_P = pairs.chosen / pairs.tokens[0] - pairs.rejected / pairs.tokens[1]
    return -logsigmoid(options.beta * difference_P)


def nca(pairs: Pairs, options: DPO) -> Tensor:
    """-log σ(r_w) - ½ log σ(-r_w) - ½ log σ(-r_l) (Chen et al. 2024, eq. 11)."""
    chosen_P, rejected_P = options.beta * pairs.chosen, options.beta * pairs.rejected
    return -logsigmoid(chosen_P) - 0.5 * (logsigmoid(-chosen_P) + logsigmoid(-rejected_P))


def bco(pairs: Pairs, options: DPO) -> Tensor:
    """-log σ(r_w) - log σ(-r_l): a classifier of answers, without shift (Jung et al. 2024)."""
    return -logsigmoid(options.beta * pairs.chosen) - logsigmoid(-options.beta * pairs.rejected)


def apo_zero(pairs: Pairs, options: DPO) -> Tensor:
    """1 - σ(r_w) + σ(r_l): chosen up, rejected down (D'Oosterlinck et al. 2024, eq. 7)."""
    beta = options.beta
    return 1 - torch.sigmoid(beta * pairs.chosen) + torch.sigmoid(beta * pairs.rejected)


def apo_down(pairs: Pairs, options: DPO) -> Tensor:
    """σ(r_w) + 1 - σ(r_w - r_l): both down, rejected further (D'Oosterlinck et al. 2024, eq. 8)."""
    beta = options.beta
    return torch.sigmoid(beta * pairs.chosen) + 1 - torch.sigmoid(beta * pairs.difference)


def sppo_hard(pairs: Pairs, options: DPO) -> Tensor:
    """(A_w - 1/(2β))² + (A_l + 1/(2β))² (Wu et al. 2024, eq. 4.7 with P of 1 and 0)."""
    half = 0.5 / options.beta
    return (pairs.chosen - half) ** 2 + (pairs.rejected + half) ** 2


def exo(pairs: Pairs, options: DPO) -> Tensor:
    """KL(softmax(h, 0) ‖ (1-ε, ε)) (Ji et al. 2024, eq. 16)."""
    h_P, noise = options.beta * pairs.difference, options.label_smoothing
    chosen_P = torch.sigmoid(h_P) * (logsigmoid(h_P) - math.log1p(-noise))
    return chosen_P + torch.sigmoid(-h_P) * (logsigmoid(-h_P) - math.log(noise))


def discopop(pairs: Pairs, options: DPO) -> Tensor:
    """Blend of -log σ(h) and exp(-h) by σ(h/τ) (Lu et al. 2024, eq. 5)."""
    h_P = options.beta * pairs.difference
    share_P = torch.sigmoid(h_P / options.discopop_tau)
    return -logsigmoid(h_P) * (1 - share_P) + torch.exp(-h_P) * share_P


def aot(pairs: Pairs, options: DPO) -> Tensor:
    """Sorted log-ratios of policy and reference against each other (Melnyk et al. 2024, paired)."""
    policy_P = (pairs.policy[0] - pairs.policy[1]).sort().values
    reference_P = (pairs.reference[0] - pairs.reference[1]).sort().values
    return _smoothed(options.beta * (policy_P - reference_P), options.label_smoothing)


def aot_unpaired(pairs: Pairs, options: DPO) -> Tensor:
    """Sorted log-ratios of chosen and rejected against each other (Melnyk et al. 2024)."""
    difference_P = pairs.chosen.sort().values - pairs.rejected.sort().values
    return _smoothed(options.beta * difference_P, options.label_smoothing)


def sft(pairs: Pairs, options: DPO) -> Tensor:
    """-log π of the chosen answer over its length: the anchor of mixes (RPO, MPO)."""
    del options
    return -pairs.policy[0] / pairs.tokens[0]


FORMULAS: dict[str, Formula] = {
    formula.__name__: formula
    for formula in (
        *(sigmoid, robust, hinge, ipo, sigmoid_norm, nca, bco, apo_zero, apo_down, sppo_hard),
        *(exo, discopop, aot, aot_unpaired, sft),
    )
}
OVER_BATCH = frozenset({"aot", "aot_unpaired"})  # sorted: a pair's loss depends on the others


def mixed(pairs: Pairs, options: DPO) -> Tensor:
    """Return the weighted sum of the losses that are chosen: [P]."""
    weights = {options.loss: options.weight, **options.mix}
    return torch.stack(
        [weight * FORMULAS[name](pairs, options) for name, weight in weights.items()]
    ).sum(0)


def divergence(log_ratio_P: Tensor, kind: str, alpha: float) -> Tensor:
    """Return f'(u) of u = π/π_ref, given log u (Wang et al. 2023, f-DPO), up to a constant.

    The constants make it 0 where policy and reference agree.
    """
    if kind == "forward_kl":
        return 1 - torch.exp(-log_ratio_P)
    if kind == "js":
        return math.log(2) + logsigmoid(log_ratio_P)
    if kind == "alpha":  # f'(u) = (1 - u^-α) / α; α → 0 is reverse KL
        return (1 - torch.exp((-alpha * log_ratio_P).clamp(max=80))) / alpha
    return log_ratio_P


def _smoothed(h_P: Tensor, noise: float) -> Tensor:
    return -(1 - noise) * logsigmoid(h_P) - noise * logsigmoid(-h_P)
