"""Masked language modelling on raw text."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.attention import model_inputs
from ontogeny.masked_texts import MaskedTexts
from ontogeny.masking import Display, Masking, Spans, Units
from ontogeny.objective import IGNORED, Batch, Loss
from ontogeny.vocabulary_loss import vocabulary_loss

if TYPE_CHECKING:
    from torch import nn

    from ontogeny_plugins.mlm import MLM


class MaskedLM(MaskedTexts):
    """Prediction of masked tokens; texts longer than a row are split, and no token is lost."""

    def __init__(self, config: MLM) -> None:
        self.config = config
        display = Display(config.mask_share, config.random_share)
        masking: Masking = (
            Spans(display, config.rate, stop=config.span_stop, longest=config.span_longest)
            if config.masking == "span"
            else Units(display, config.rate)
        )
        super().__init__(
            masking,
            rate=config.rate,
            words=config.masking != "token",
            piece_length=config.piece_length,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ -log p over masked tokens, chosen anew at every call, and their number."""
        masked = self.masked(batch)
        total = vocabulary_loss(model, model_inputs(model, masked), masked["labels"])
        return Loss(total, (masked["labels"] != IGNORED).sum())
