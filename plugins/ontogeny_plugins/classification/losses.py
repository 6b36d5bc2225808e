"""Losses of whole texts, as sums with their weights."""
# B rows, C classes, K thresholds between ordered classes

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

from ontogeny.objective import Loss

if TYPE_CHECKING:
    from torch import Tensor


class TextLoss(Protocol):
    """A loss of logits; `weights_C` is how much each class counts."""

    def __call__(
        self, logits: Tensor, targets: Tensor, weights_C: Tensor, smoothing: float, /
    ) -> Loss:
        """Return a sum over rows with its weight."""
        ...


def single_label(logits_BC: Tensor, targets_B: Tensor, weights_C: Tensor, smoothing: float) -> Loss:
    """Return the cross-entropy; its weight is the sum of the weights of the rows' classes.

    Divided by it, it is what torch calls the weighted mean. The accuracy is weighted alike.
    """
    total = F.cross_entropy(
        logits_BC, targets_B, weights_C, reduction="sum", label_smoothing=smoothing
    )
    rows_B = weights_C[targets_B]
    hits_B = (logits_BC.argmax(-1) == targets_B) * rows_B
    return Loss(total, rows_B.sum(), {"accuracy": hits_B.sum()})


def multi_label(logits_BC: Tensor, targets_BC: Tensor, weights_C: Tensor, smoothing: float) -> Loss:
    """Return the binary cross-entropy of each class, where it is present weighted."""
    del smoothing
    total = F.binary_cross_entropy_with_logits(
        logits_BC, targets_BC, pos_weight=weights_C, reduction="sum"
    )
    return Loss(total, torch.ones_like(targets_BC).sum())


def regression(logits_B1: Tensor, targets_B: Tensor, weights_C: Tensor, smoothing: float) -> Loss:
    """Return the squared error."""
    del weights_C, smoothing
    total = F.mse_loss(logits_B1.squeeze(-1), targets_B, reduction="sum")
    return Loss(total, torch.ones_like(targets_B).sum())


def ordinal(logits_BK: Tensor, targets_B: Tensor, weights_C: Tensor, smoothing: float) -> Loss:
    """Return the loss of CORN (Shi et al., 2023, arXiv 2111.08851).

    Output k answers "more than class k?", and learns it from the rows that are more than k - 1.
    """
    del smoothing
    thresholds_K = torch.arange(logits_BK.shape[1], device=logits_BK.device)
    is_asked_BK = targets_B[:, None] >= thresholds_K
    is_more_BK = (targets_B[:, None] > thresholds_K).to(logits_BK.dtype)
    asked_BK = is_asked_BK * weights_C[targets_B][:, None]
    nats_BK = F.binary_cross_entropy_with_logits(logits_BK, is_more_BK, reduction="none")
    return Loss((nats_BK * asked_BK).sum(), asked_BK.sum())


def ordinal_probabilities(logits_BK: Tensor) -> Tensor:
    """Return the probabilities of the classes, [B, K + 1]: P(y > k) is a product."""
    more_BK = logits_BK.sigmoid().cumprod(-1)
    bounds = F.pad(more_BK, (1, 0), value=1.0), F.pad(more_BK, (0, 1), value=0.0)
    return bounds[0] - bounds[1]


LOSSES: dict[str, TextLoss] = {
    "single_label": single_label,
    "multi_label": multi_label,
    "regression": regression,
    "ordinal": ordinal,
}
