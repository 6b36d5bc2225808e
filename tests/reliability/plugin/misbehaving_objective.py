"""The objective of the plugin `misbehaving`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ontogeny.objective import Batch, Loss
from ontogeny_plugins.clm.objective import CausalLM

if TYPE_CHECKING:
    from misbehaving import Misbehaving
    from torch import nn


class MisbehavingObjective(CausalLM):
    """Counts its forward passes and goes wrong at one of them."""

    def __init__(self, config: Misbehaving) -> None:
        super().__init__(config)
        self.options = config
        self.passes = 0

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of causal language modelling, or not."""
        loss = super().loss(model, batch)
        if self.passes == self.options.nan_at:
            loss.total = loss.total * float("nan")
        if self.passes == self.options.exit_at:
            sys.exit(3)
        self.passes += 1
        return loss
