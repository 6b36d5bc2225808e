"""A frozen reference that follows the model (TR-DPO: Gorbatovski et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning as L

if TYPE_CHECKING:
    import torch

    from ontogeny.lightning_module import TrainingModule
    from ontogeny_plugins.preference.reference import Reference

STATE = "reference"  # key of the training state


class Follow(L.Callback):
    """Moves the reference after every so many steps; where it is now is in the training state."""

    def __init__(self, reference: Reference, every: int, share: float) -> None:
        self.reference = reference
        self.every = every
        self.share = share

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Move the reference when it is due."""
        del trainer, outputs, batch, batch_idx
        module = cast("TrainingModule", pl_module)
        if module.consumed % self.every == 0:
            self.reference.follow(module.model, self.share)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add the weights of the reference to the training state."""
        del trainer, pl_module
        checkpoint[STATE] = self.reference.weights()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Put the reference where it was."""
        del trainer, pl_module
        self.reference.load_weights(cast("dict[str, torch.Tensor]", checkpoint[STATE]))
