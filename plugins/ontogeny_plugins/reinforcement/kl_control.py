"""The price of a nat of divergence: fixed, or steered to a target."""

from __future__ import annotations

import lightning as L

STEP = 0.2  # largest relative error that steers (Ziegler et al. 2019, section 2.2)


class KLControl(L.Callback):
    """β of the KL penalty; what it is now is part of the training state."""

    def __init__(self, beta: float, target: float | None, horizon: int) -> None:
        self.beta = beta
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, answers: int) -> None:
        """Raise β where answers have left the reference by more than the target, else lower it."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -STEP), STEP)
            self.beta *= 1 + error * answers / self.horizon

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add β to the training state."""
        del trainer, pl_module
        checkpoint["kl_beta"] = self.beta

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Take β out of the training state."""
        del trainer, pl_module
        self.beta = float(str(checkpoint["kl_beta"]))
