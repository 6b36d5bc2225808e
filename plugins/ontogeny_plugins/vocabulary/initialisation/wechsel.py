"""WECHSEL: a softmax over the nearest tokens (Minixhofer et al., 2022)."""
# M new tokens, A old tokens, D width of vectors, K nearest ones

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.initialisation.company import by_company

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows

NEAREST = 10
TEMPERATURE = 0.1


def wechsel(known: Known) -> Rows:
    """Weight the 10 most similar old rows by softmax(cosine / 0.1)."""
    return by_company(known, _weigh)


def _weigh(new_MD: Tensor, old_AD: Tensor) -> list[tuple[Tensor, Tensor]]:
    cosines_MK, places_MK = (new_MD @ old_AD.T).topk(min(NEAREST, len(old_AD)), dim=-1)
    weights_MK = (cosines_MK / TEMPERATURE).softmax(-1)
    return list(zip(places_MK, weights_MK, strict=True))
