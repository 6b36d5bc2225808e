"""New rows as weighted sums of old ones, and what is known to find the weights."""
# N new tokens, V old tokens, D width, K old tokens of one sum

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ontogeny_plugins.vocabulary import Vocabulary
    from ontogeny_plugins.vocabulary.expansion import Expansion
    from ontogeny_plugins.vocabulary.static_vectors import StaticVectors

# From the old rows, [V, D], of the input or of the output matrix to the new ones, [N, D].
Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Known:
    """What is known of the new tokens and the old ones."""

    expansion: Expansion
    vocabulary: Mapping[str, int]  # the old one
    prefix: str  # of tokens that go on in a word, such as `##`
    vectors: StaticVectors | None  # where the method needs them
    options: Vocabulary


@dataclass(frozen=True)
class Weighted:
    """The old tokens of one sum and their weights."""

    ids: Sequence[int]
    weights: Tensor  # [K]


def evenly(ids: Sequence[int]) -> Weighted:
    """Return weights for the mean of some rows."""
    return Weighted(ids, torch.full((len(ids),), 1 / max(1, len(ids))))


def sums(of: Sequence[Weighted]) -> Rows:
    """Return a function that adds weighted rows; an empty sum is the mean of all of them."""

    def rows(old_VD: Tensor) -> Tensor:
        mean_D = old_VD.mean(0)
        made = [
            each.weights.to(old_VD) @ old_VD[torch.tensor(each.ids, device=old_VD.device)]
            if len(each.ids)
            else mean_D
            for each in of
        ]
        return torch.stack(made)

    return rows
