"""Orthogonal matching pursuit: the sum of few old vectors that comes nearest (Pati et al., 1993).

Goddard & Fernandes Neto, 2025, find the coefficients in the embeddings of a donor model and apply
them to the rows of the model; here the static vectors are the donor.
"""
# M new tokens, A old tokens, D width of vectors, K chosen ones

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ontogeny_plugins.vocabulary.initialisation.company import by_company

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows

ANCHORS = 64  # at most, and one for 16 numbers of a vector: donors have 1,024 and more


def omp(known: Known) -> Rows:
    """Return the mean row and a sum of up to 64 others' differences from it.

    A donor's embeddings share a mean as those of the model do, so that coefficients add up to
    about 1. Those of static vectors do not, and would scale the mean of the model's rows.
    """
    rows = by_company(known, _weigh)

    def around_the_mean(old_VD: Tensor) -> Tensor:
        mean_D = old_VD.mean(0)
        return mean_D + rows(old_VD - mean_D)

    return around_the_mean


def _weigh(new_MD: Tensor, old_AD: Tensor) -> list[tuple[Tensor, Tensor]]:
    count = max(1, min(ANCHORS, old_AD.shape[1] // 16, len(old_AD)))
    places_MK = matching_pursuit(new_MD, old_AD, count)
    chosen_MDK = old_AD[places_MK].transpose(1, 2)
    weights_MK = torch.linalg.lstsq(chosen_MDK, new_MD[..., None]).solution.squeeze(-1)
    return list(zip(places_MK, weights_MK, strict=True))


def matching_pursuit(new_MD: Tensor, old_AD: Tensor, count: int) -> Tensor:
    """Return the places of `count` old vectors for each new one, [M, K].

    Each is the one most parallel to what the sum of those before leaves over. The residual stays
    orthogonal to all of them, by Gram and Schmidt.
    """
    residual_MD = new_MD.clone()
    basis_MDK = new_MD.new_zeros(*new_MD.shape, count)
    places_MK = torch.zeros(len(new_MD), count, dtype=torch.long)
    for step in range(count):
        fits_MA = (residual_MD @ old_AD.T).abs()
        fits_MA.scatter_(1, places_MK[:, :step], -1.0)
        places_MK[:, step] = fits_MA.argmax(1)
        found_MD = old_AD[places_MK[:, step]]
        inside_MK = (basis_MDK.transpose(1, 2) @ found_MD[..., None]).squeeze(-1)
        found_MD = found_MD - (basis_MDK @ inside_MK[..., None]).squeeze(-1)
        found_MD = torch.nn.functional.normalize(found_MD, dim=1)
        basis_MDK[:, :, step] = found_MD
        residual_MD = residual_MD - found_MD * (residual_MD * found_MD).sum(1, keepdim=True)
    return places_MK
