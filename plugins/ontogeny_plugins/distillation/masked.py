"""Distillation of masked language models, in DistilBERT's manner (Sanh et al., 2019)."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.masked_texts import MaskedTexts
from ontogeny.masking import Display, Units
from ontogeny_plugins.distillation.features import Features
from ontogeny_plugins.distillation.lesson import Lesson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.objective import Batch, Loss
    from ontogeny.preflight import Proof
    from ontogeny_plugins.distillation import MaskedDistillation


class MaskedDistillationObjective(MaskedTexts):
    """Learns masked tokens, what a teacher in memory says of them, and its hidden states."""

    def __init__(self, config: MaskedDistillation) -> None:
        self.config = config
        masking = Units(Display(config.mask_share, config.random_share), config.rate)
        super().__init__(masking, rate=config.rate, words=False, piece_length=config.piece_length)
        features = Features(config.layers, config.hidden, config.attention, config.cosine)
        self.lesson = Lesson(config, features)

    def begin(self, companions: Companions) -> None:
        """Take the teacher; raise ConfigError where there is none, or one with other tokens."""
        self.lesson.begin(companions)

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Return the projections of the student's states, where they are matched."""
        return self.lesson.auxiliary(bundle)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over masked tokens, drawn anew at every call, and their number.

        Hidden states are compared at all tokens, masked or not: their sum times the masked share
        is, over the number of masked tokens, the mean over all.
        """
        masked = self.masked(batch)
        matched_BT = (batch["units"] > 0) * self.rate
        return self.lesson.loss(model, masked, masked["labels"], matched_BT=matched_BT)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Add that a student that is the teacher has nothing to learn."""
        yield from super().proofs(model, batch)
        masked = self.masked(batch)
        yield self.lesson.same_proof(masked, masked["labels"])
