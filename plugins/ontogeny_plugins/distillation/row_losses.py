"""Distillation of logits, a chunk of positions at a time: what the teacher says, what is learned.

None of these holds more than a chunk of the student's logits and one of the teacher's.
"""
# N positions, C positions of a chunk, V vocabulary, K kept tokens of the teacher

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ontogeny.logit_loss import BLOCK_ELEMENTS, compiles_kernels, slices, wide
from ontogeny_plugins.distillation.divergences import LOWEST, Divergence

if TYPE_CHECKING:
    from collections.abc import Callable

    from ontogeny.logit_loss import ChunkedLogits

# Of what is passed over a dozen times: it stays in the cache of one core.
BLOCK = BLOCK_ELEMENTS // 16
TERMS = ("loss", "divergence", "nats_per_token")  # of each row, in this order


@dataclass(frozen=True)
class Weights:
    """How the terms of a loss are put together: α·CE + (1-α)·τ²·D."""

    divergence: Divergence
    temperature: float  # τ of both models' logits
    scale: float  # of the divergence: its weight, and τ² where that is wanted
    cross_entropy: float

    @property
    def is_hot(self) -> bool:
        """Whether the cross-entropy needs a softmax of its own."""
        return self.temperature != 1


class FromLogits:
    """Learns from the logits of a teacher in memory."""

    def __init__(
        self, teacher: ChunkedLogits, labels_N: Tensor, hard_N: Tensor | None, weights: Weights
    ) -> None:
        self.teacher, self.labels_N, self.weights = teacher, labels_N, weights
        self.hard_N = hard_N  # 1 where the label is the data's, 0 where a model wrote it

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return TERMS of each row, [C, 3]."""
        hard_C = torch.ones_like(self.labels_N[rows]) if self.hard_N is None else self.hard_N[rows]
        given = (logits_CV, self.teacher(rows), self.labels_N[rows], hard_C)
        if compiles_kernels() and len(logits_CV):
            copies = (each.clone() for each in given[2:])  # views would be compiled again
            return _compiled(self.weights, gradient)(*given[:2], *copies)
        return _in_blocks(functools.partial(_learn, self.weights, gradient), given)


class FromTop:
    """Learns from what was kept of a teacher: its K likeliest tokens, and one bucket for the rest.

    A divergence of these K + 1 buckets is never above that of all tokens (the log-sum inequality,
    and the same for every f-divergence), and is the same where all tokens are kept.
    """

    def __init__(
        self,
        ids_NK: Tensor,
        log_p_NB: Tensor,
        labels_N: Tensor,
        hard_N: Tensor | None,
        weights: Weights,
    ) -> None:
        self.ids_NK, self.log_p_NB = ids_NK, log_p_NB  # B = K + 1, the last one is the rest
        self.labels_N, self.hard_N, self.weights = labels_N, hard_N, weights

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return TERMS of each row, [C, 3]."""
        hard_C = torch.ones_like(self.labels_N[rows]) if self.hard_N is None else self.hard_N[rows]
        kept = (self.ids_NK[rows], self.log_p_NB[rows], self.labels_N[rows], hard_C)
        learn = functools.partial(_learn_from_top, self.weights, gradient)
        return _in_blocks(learn, (logits_CV, *kept))


def top_of(logits_CV: Tensor, temperature: float, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids_CK and log-probabilities_CK of the likeliest tokens, and log p of the rest, [C].

    The rest is summed over the other tokens themselves: 1 less the kept would be lost in rounding.
    """
    log_p_CV = (logits_CV.to(wide(logits_CV.dtype)) / temperature).log_softmax(-1)
    log_p_CK, ids_CK = log_p_CV.topk(min(kept, log_p_CV.shape[-1]), dim=-1)
    return ids_CK, log_p_CK, _log_rest(log_p_CV, ids_CK)


def _log_rest(log_p_CV: Tensor, ids_CK: Tensor) -> Tensor:
    """Return the log of what all other tokens have together, LOWEST if there are none."""
    rest_CV = log_p_CV.scatter(-1, ids_CK, -torch.inf)
    return rest_CV.logsumexp(-1).clamp(min=LOWEST)


def _in_blocks(learn: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Tensor:
    size = max(1, BLOCK // given[0].shape[1] if given[0].is_cpu else len(given[0]))
    blocks = slices(max(1, len(given[0])), size)
    return torch.cat([learn(*(each[block] for each in given)) for block in blocks])


@functools.cache
def _compiled(weights: Weights, gradient: bool) -> Callable[..., Tensor]:
    return torch.compile(functools.partial(_learn, weights, gradient), dynamic=True)


def _learn(
    weights: Weights,
    gradient: bool,
    logits_CV: Tensor,
    teacher_CV: Tensor,
    labels_C: Tensor,
    hard_C: Tensor,
) -> Tensor:
    """Return TERMS of each row; turn the student's logits into the gradient of the first."""
    student_CV = logits_CV.to(wide(logits_CV.dtype))
    log_q_CV = _log_softmax(student_CV, weights.temperature)
    log_p_CV = _log_softmax(teacher_CV.to(student_CV.dtype), weights.temperature)
    terms_CV, slopes_CV = weights.divergence.terms(log_p_CV, log_q_CV)
    cool_CV = _log_softmax(student_CV, 1) if weights.is_hot else log_q_CV
    if gradient:
        factor = weights.scale / weights.temperature
        total_C1 = slopes_CV.sum(-1, keepdim=True).mul_(-factor)
        _add_slopes(weights, slopes_CV.mul_(factor), total_C1, log_q_CV, cool_CV, labels_C, hard_C)
        logits_CV.copy_(slopes_CV)
    return _told(weights, terms_CV.sum(-1), cool_CV, labels_C, hard_C)


def _learn_from_top(
    weights: Weights,
    gradient: bool,
    logits_CV: Tensor,
    ids_CK: Tensor,
    log_p_CB: Tensor,
    labels_C: Tensor,
    hard_C: Tensor,
) -> Tensor:
    """Do as `_learn` with the buckets of the teacher's K likeliest tokens and of the rest."""
    student_CV = logits_CV.to(wide(logits_CV.dtype))
    log_q_CV = _log_softmax(student_CV, weights.temperature)
    rest_C1 = _log_rest(log_q_CV, ids_CK)[:, None]
    log_q_CB = torch.cat([log_q_CV.gather(-1, ids_CK), rest_C1], -1).clamp(min=LOWEST)
    terms_CB, slopes_CB = weights.divergence.terms(log_p_CB.to(log_q_CB.dtype), log_q_CB)
    cool_CV = _log_softmax(student_CV, 1) if weights.is_hot else log_q_CV
    if gradient:
        slopes_CB.mul_(weights.scale / weights.temperature)
        # A token of the rest moves its bucket by its share of it.
        slopes_CV = (log_q_CV - rest_C1).exp_().mul_(slopes_CB[:, -1:])
        slopes_CV.scatter_(-1, ids_CK, slopes_CB[:, :-1])
        total_C1 = -slopes_CB.sum(-1, keepdim=True)
        _add_slopes(weights, slopes_CV, total_C1, log_q_CV, cool_CV, labels_C, hard_C)
        logits_CV.copy_(slopes_CV)
    return _told(weights, terms_CB.sum(-1), cool_CV, labels_C, hard_C)


def _log_softmax(logits_CV: Tensor, temperature: float) -> Tensor:
    return (logits_CV if temperature == 1 else logits_CV / temperature).log_softmax(-1)


def _add_slopes(
    weights: Weights,
    slopes_CV: Tensor,
    total_C1: Tensor,
    log_q_CV: Tensor,
    cool_CV: Tensor,
    labels_C: Tensor,
    hard_C: Tensor,
) -> None:
    """Add to the slopes of the divergence total · q, and the gradient of the cross-entropy."""
    weights_C1 = (weights.cross_entropy * hard_C)[:, None].to(slopes_CV.dtype)
    if not weights.is_hot:
        slopes_CV.addcmul_(log_q_CV.exp(), total_C1 + weights_C1)
    else:
        slopes_CV.addcmul_(log_q_CV.exp(), total_C1)
        if weights.cross_entropy:
            slopes_CV.addcmul_(cool_CV.exp(), weights_C1)
    if weights.cross_entropy:
        _subtract_at(slopes_CV, labels_C[:, None], weights_C1)


def _subtract_at(slopes_CV: Tensor, labels_C1: Tensor, weights_C1: Tensor) -> None:
    if torch.compiler.is_compiling():  # becomes part of the kernel, which a scatter does not
        is_label_CV = torch.arange(slopes_CV.shape[-1], device=labels_C1.device) == labels_C1
        slopes_CV.sub_(torch.where(is_label_CV, weights_C1, 0))
    else:
        slopes_CV.scatter_add_(-1, labels_C1, -weights_C1)


def _told(
    weights: Weights, far_C: Tensor, cool_CV: Tensor, labels_C: Tensor, hard_C: Tensor
) -> Tensor:
    nats_C = -cool_CV.gather(-1, labels_C[:, None]).squeeze(-1) * hard_C
    loss_C = weights.scale * far_C + weights.cross_entropy * nats_C
    return torch.stack([loss_C, far_C, nats_C], -1)
