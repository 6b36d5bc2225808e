"""Which tokens are masked, and what is shown in their place; on the device, in a few tensors."""
# B rows, T tokens, K lengths of a span
#
# A unit is what is masked as one: a token or a word. `units_BT` numbers those of a document from 1
# on; 0 is a special token or padding, which is never masked.

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ontogeny.objective import IGNORED


@dataclass(frozen=True)
class Layout:
    """Where units stand in their rows: [B, T] each."""

    maskable_BT: Tensor  # bool
    unit_BT: Tensor  # the number of the unit in its row, from 0 on; special tokens count
    first_BT: Tensor  # that of the first unit of the same stretch without special tokens

    @classmethod
    def of(cls, units_BT: Tensor, documents_BT: Tensor | None) -> Layout:
        """Return the layout of rows of units; each document of a packed row begins anew."""
        maskable_BT = units_BT > 0
        begins_BT = _differs_from_left(maskable_BT)
        if documents_BT is not None:
            begins_BT |= _differs_from_left(documents_BT)
        unit_BT = (begins_BT | _differs_from_left(units_BT) | ~maskable_BT).cumsum(1) - 1
        return cls(maskable_BT, unit_BT, torch.where(begins_BT, unit_BT, 0).cummax(1).values)


@dataclass(frozen=True)
class Display:
    """What masked tokens are shown as, in shares of them; the others are shown as they are."""

    mask_share: float
    random_share: float

    def of(self, ids_BT: Tensor, group_BT: Tensor, vocabulary: Tensor) -> Tensor:
        """Return what each token is shown as if it is masked: [B, T].

        The tokens of a group, which is a number within the row, are treated alike. `vocabulary`
        is the id of the mask token, and the range, its end excluded, that random ids are from.
        """
        mask_token, first, end = vocabulary.unbind()
        draw_BT = _draw(ids_BT).gather(1, group_BT)
        random_BT = first + (_draw(ids_BT) * (end - first)).long()
        shown_BT = torch.where(draw_BT < self.mask_share + self.random_share, random_BT, ids_BT)
        return torch.where(draw_BT < self.mask_share, mask_token, shown_BT)


class Masking(ABC):
    """A way to choose what is masked, in which every unit has the same chance."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def mask(
        self, ids_BT: Tensor, units_BT: Tensor, documents_BT: Tensor | None, vocabulary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens to show and the labels, -100 where nothing is masked: [B, T] each."""
        layout = Layout.of(units_BT, documents_BT)
        masked_BT = self.choose(layout) & layout.maskable_BT
        shown_BT = self.display.of(ids_BT, self.groups(layout, masked_BT), vocabulary)
        return torch.where(masked_BT, shown_BT, ids_BT), torch.where(masked_BT, ids_BT, IGNORED)

    @abstractmethod
    def choose(self, layout: Layout) -> Tensor:
        """Return which tokens are masked, as far as they may be: [B, T], bool."""

    @abstractmethod
    def groups(self, layout: Layout, masked_BT: Tensor) -> Tensor:
        """Return the number, in its row, of the group that a masked token is shown with."""


class Units(Masking):
    """Each unit by itself: a token (Devlin et al., 2019), or a word; tokens are shown singly."""

    def __init__(self, display: Display, rate: float) -> None:
        super().__init__(display)
        self.rate = rate

    def choose(self, layout: Layout) -> Tensor:
        """Draw once for each unit."""
        return _draw(layout.unit_BT).gather(1, layout.unit_BT) < self.rate

    def groups(self, layout: Layout, masked_BT: Tensor) -> Tensor:
        """Return the position of the token."""
        del layout
        return torch.arange(masked_BT.shape[1], device=masked_BT.device).expand_as(masked_BT)


class Spans(Masking):
    """Spans of units, as long as P(n) ∝ (1 - stop)ⁿ says, shown as one (Joshi et al., 2020, §3.1).

    They begin at each unit with the same chance, independently, and so may touch and overlap; some
    begin before a text, as if it went on there, so that its first units are masked as often as
    the others. That chance is such that the share of masked units is `rate`.
    """

    def __init__(self, display: Display, rate: float, *, stop: float, longest: int) -> None:
        super().__init__(display)
        going_on = 1 - stop
        weights_K = [going_on**k - going_on**longest for k in range(longest)]
        self.longer_K = [weight / weights_K[0] for weight in weights_K]  # P(length > k)
        begin = _chance_to_begin(self.longer_K, rate)
        self.reach_K = [begin * longer for longer in self.longer_K]  # P(a span, and length > k)

    def choose(self, layout: Layout) -> Tensor:
        """Draw once for each unit, and for each stretch of them once for what begins before it.

        A draw below `reach_K[k]` is a span that reaches k units further, at least.
        """
        draw_BT, before_BT = _draw(layout.unit_BT), _draw(layout.unit_BT)
        before_BT = before_BT.gather(1, layout.first_BT)
        place_BT = layout.unit_BT - layout.first_BT
        masked_BT = torch.zeros_like(layout.maskable_BT)
        for k, reach in enumerate(self.reach_K):
            start_BT = (layout.unit_BT - k).clamp(min=0)
            masked_BT |= (draw_BT.gather(1, start_BT) < reach) & (place_BT >= k)
            masked_BT |= (before_BT < _any(self.reach_K[k + 1 :])) & (place_BT == k)
        return masked_BT

    def groups(self, layout: Layout, masked_BT: Tensor) -> Tensor:
        """Return the number of the span, or of several that touch."""
        begins_BT = masked_BT & _differs_from_left(torch.where(masked_BT, layout.first_BT, -1))
        return (begins_BT.cumsum(1) - 1).clamp(min=0)


def _chance_to_begin(longer_K: list[float], rate: float) -> float:
    """Return how often spans must begin to cover a share `rate` of all units, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):  # to the last bit
        middle = (low + high) / 2
        enough = _any([middle * longer for longer in longer_K]) >= rate
        low, high = (low, middle) if enough else (middle, high)
    return high


def _any(chances: list[float]) -> float:
    """Return the probability that at least one of independent events happens."""
    return 1 - prod(1 - chance for chance in chances)


def _differs_from_left(column_BT: Tensor) -> Tensor:
    differs_BT = torch.ones_like(column_BT, dtype=torch.bool)
    differs_BT[:, 1:] = column_BT[:, 1:] != column_BT[:, :-1]
    return differs_BT


def _draw(like_BT: Tensor) -> Tensor:
    """Return a uniform number for each place: float32, on the same device."""
    return torch.rand(like_BT.shape, device=like_BT.device)
