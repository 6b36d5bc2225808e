"""FOCUS: a sparse mean of the most similar tokens (Dobler & de Melo, 2023)."""
# M new tokens, A old tokens, D width of vectors

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ontogeny_plugins.vocabulary.initialisation.company import by_company

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows


def focus(known: Known) -> Rows:
    """Weight old rows by the sparsemax of the cosines of their vectors with the new token's."""
    return by_company(known, _weigh)


def _weigh(new_MD: Tensor, old_AD: Tensor) -> list[tuple[Tensor, Tensor]]:
    weights_MA = sparsemax(new_MD @ old_AD.T)
    places = [weights_A.nonzero().squeeze(1) for weights_A in weights_MA]
    return [(place, weights_MA[row, place]) for row, place in enumerate(places)]


def sparsemax(scores_MA: Tensor) -> Tensor:
    """Return the nearest point of the simplex to each row (Martins & Astudillo, 2016, alg. 1)."""
    sorted_MA = scores_MA.sort(-1, descending=True).values
    sums_MA = sorted_MA.cumsum(-1)
    numbers_A = torch.arange(1, scores_MA.shape[-1] + 1)
    support_M = (1 + numbers_A * sorted_MA > sums_MA).sum(-1, keepdim=True)
    threshold_M = (sums_MA.gather(-1, support_M - 1) - 1) / support_M
    return (scores_MA - threshold_M).clamp(min=0)
