"""How far a student's distribution q is from its teacher's p: terms and slopes of each.

All are sums over the tokens of a vocabulary, or over the buckets of a coarser one: F(log p, log q).
With the slope ∂F/∂log q, the gradient of the sum by the student's logits is slope - q·Σ slope.
"""
# C rows, V tokens or buckets

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LOWEST = -1e4  # a log-probability of nothing: exp of it is 0, and 0 times it is not NaN


class Divergence(ABC):
    """A sum over tokens that is 0 where both distributions are the same."""

    @abstractmethod
    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return F and ∂F/∂log q of every token, [C, V] each; in float32, at LOWEST or above."""

    def __call__(self, log_p_CV: Tensor, log_q_CV: Tensor) -> Tensor:
        """Return the divergence of each row, [C]."""
        return self.terms(log_p_CV, log_q_CV)[0].sum(-1)


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """KL(p ‖ q) = Σ p log(p/q): the student covers all that the teacher does (Hinton, 2015)."""

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return p (log p - log q) and -p."""
        p_CV = log_p_CV.exp()
        return (log_p_CV - log_q_CV).mul_(p_CV), -p_CV


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """KL(q ‖ p) = Σ q log(q/p): the student seeks a mode of the teacher (Gu et al., 2024)."""

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return q (log q - log p) and the same plus q."""
        q_CV = log_q_CV.exp()
        terms_CV = (log_q_CV - log_p_CV).mul_(q_CV)
        return terms_CV, q_CV.add_(terms_CV)


@dataclass(frozen=True)
class JSD(Divergence):
    """β KL(p ‖ m) + (1-β) KL(q ‖ m), m = β p + (1-β) q (Agarwal et al. 2024, "GKD", eq. 1).

    Divided by β(1-β) it goes to the forward KL for β → 0, to the reverse one for β → 1.
    """

    beta: float

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return both parts together, and (1-β) q (log q - log m)."""
        p_CV, q_CV = log_p_CV.exp(), log_q_CV.exp()
        log_m_CV = _log_mixture(p_CV, q_CV, self.beta)
        slopes_CV = (log_q_CV - log_m_CV).mul_(q_CV).mul_(1 - self.beta)
        far_CV = torch.sub(log_p_CV, log_m_CV, out=log_m_CV).mul_(p_CV)
        return torch.add(slopes_CV, far_CV, alpha=self.beta), slopes_CV


@dataclass(frozen=True)
class SkewForwardKL(Divergence):
    """KL(p ‖ α p + (1-α) q) (Ko et al. 2024, "DistiLLM", eq. 4)."""

    alpha: float

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return p (log p - log m) and -p (1-α) q / m."""
        p_CV, q_CV = log_p_CV.exp(), log_q_CV.exp()
        log_m_CV = _log_mixture(p_CV, q_CV, self.alpha)
        share_CV = (log_q_CV - log_m_CV).exp_().mul_(self.alpha - 1)
        return (log_p_CV - log_m_CV).mul_(p_CV), share_CV.mul_(p_CV)


@dataclass(frozen=True)
class SkewReverseKL(Divergence):
    """KL(q ‖ (1-α) p + α q) (Ko et al. 2024, "DistiLLM", eq. 5)."""

    alpha: float

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return q (log q - log m) and q (log q - log m + 1 - α q / m)."""
        q_CV = log_q_CV.exp()
        far_CV = log_q_CV - _log_mixture(log_p_CV.exp(), q_CV, 1 - self.alpha)
        terms_CV = q_CV * far_CV
        return terms_CV, far_CV.exp_().mul_(-self.alpha).add_(1).mul_(q_CV).add_(terms_CV)


@dataclass(frozen=True)
class TotalVariation(Divergence):
    """½ Σ |p - q| (Wen et al. 2023, "f-DISTILL")."""

    def terms(self, log_p_CV: Tensor, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Return ½ |p - q| and ½ q sign(q - p)."""
        q_CV = log_q_CV.exp()
        far_CV = q_CV - log_p_CV.exp()
        return 0.5 * far_CV.abs(), 0.5 * q_CV * far_CV.sign()


class Named(Protocol):
    """Options that name a divergence."""

    loss: str
    beta: float
    skew: float


def divergence(options: Named) -> Divergence:
    """Return the divergence that options name; β of 0 and 1 are the limits of the JSD.

    Reads only the options that it needs: one that nothing reads is an error before the first step.
    """
    if options.loss == "jsd":
        limits: dict[float, Divergence] = {0: ForwardKL(), 1: ReverseKL()}
        return limits.get(options.beta) or JSD(options.beta)
    if options.loss == "skew_forward_kl":
        return SkewForwardKL(options.skew)
    if options.loss == "skew_reverse_kl":
        return SkewReverseKL(options.skew)
    plain = {
        "forward_kl": ForwardKL(),
        "reverse_kl": ReverseKL(),
        "total_variation": TotalVariation(),
    }
    return plain[options.loss]


def _log_mixture(p_CV: Tensor, q_CV: Tensor, share: float) -> Tensor:
    """Return log(share · p + (1-share) · q); where both are too small for a float, log of one."""
    return torch.lerp(q_CV, p_CV, share).clamp_(min=torch.finfo(q_CV.dtype).tiny).log_()
