"""New and old tokens by the company they keep: the vectors of both, side by side."""
# M new tokens with a vector, A old tokens with a vector, D width of vectors

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ontogeny_plugins.vocabulary.initialisation.mixture import Weighted, evenly, sums

if TYPE_CHECKING:
    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows
    from ontogeny_plugins.vocabulary.static_vectors import StaticVectors

AT_ONCE = 256  # new tokens that are compared with all old ones together

# From vectors of new tokens [M, D] and of old ones [A, D] to places of old ones and their weights.
Weigh = Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor]]]


def by_company(known: Known, weigh: Weigh) -> Rows:
    """Return sums of old rows, weighted by vectors; of tokens without one, the mean of pieces."""
    vectors, expansion = cast("StaticVectors", known.vectors), known.expansion
    is_new_N = vectors.ids_N >= expansion.first_id
    old_ids_A, old_AD = vectors.ids_N[~is_new_N], vectors.vectors_ND[~is_new_N]
    new_ids_M, new_MD = vectors.ids_N[is_new_N], vectors.vectors_ND[is_new_N]
    of = [evenly(pieces) for pieces in expansion.pieces]
    if not len(new_ids_M) or not len(old_ids_A):  # little text: no company to know them by
        return sums(of)
    for ids, part_MD in zip(new_ids_M.split(AT_ONCE), new_MD.split(AT_ONCE), strict=True):
        found = weigh(part_MD, old_AD)
        for token, (places, weights) in zip(ids.tolist(), found, strict=True):
            of[token - expansion.first_id] = Weighted(old_ids_A[places].tolist(), weights)
    return sums(of)
