"""Rows that know nothing: the control, as WECHSEL (2022) and FOCUS (2023) have it."""
# N new tokens, V old tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows


def random(known: Known) -> Rows:
    """Draw each number from the normal distribution that has the mean and spread of its column.

    Noise alone tells these rows from the mean. Rows around 0 would differ in the level of their
    logits too, which softmax does not see and training lets drift: it may fit or not, by chance.
    """

    def rows(old_VD: Tensor) -> Tensor:
        drawn_ND = torch.randn(len(known.expansion), old_VD.shape[1]).to(old_VD)
        return old_VD.mean(0) + drawn_ND * old_VD.std(0, correction=0)

    return rows
