"""Rows as those of a model before its training: the control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows


def random(known: Known) -> Rows:
    """Draw from N(0, initializer_range²)."""

    def rows(old_VD: Tensor) -> Tensor:
        drawn_ND = torch.randn(len(known.expansion), old_VD.shape[1])
        return (known.initializer_range * drawn_ND).to(old_VD)

    return rows
