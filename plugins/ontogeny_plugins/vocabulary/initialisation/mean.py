"""The mean of all old rows, alone or with noise (Hewitt, 2021)."""
# N new tokens, V old tokens, D width

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows

AT_ONCE = 64  # rows whose noise is drawn together: each takes V numbers


def mean(known: Known) -> Rows:
    """Return the mean of all rows: n tokens of V + n take at most n/(V + n) of any probability.

    exp is convex, so exp(h·mean e) ≤ mean exp(h·e), for every hidden state h.
    """
    return lambda old_VD: old_VD.mean(0).expand(len(known.expansion), -1)


def mean_noise(known: Known) -> Rows:
    """Draw from N(mean, noise · covariance) of all rows, so that no two are the same."""

    def rows(old_VD: Tensor) -> Tensor:
        mean_D = old_VD.mean(0)
        centred_VD = (old_VD - mean_D) * math.sqrt(known.options.noise / len(old_VD))
        # A sum of centred rows with weights out of N(0, 1) has their covariance.
        counts = [len(part) for part in torch.arange(len(known.expansion)).split(AT_ONCE)]
        drawn = [torch.randn(n, len(old_VD)).to(old_VD) @ centred_VD for n in counts]
        return mean_D + torch.cat(drawn)

    return rows
