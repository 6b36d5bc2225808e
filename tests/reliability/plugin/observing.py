"""Lightning callbacks that look on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import lightning as L

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ontogeny.lightning_module import TrainingModule


class Observer(L.Callback):
    """Notes what the model is like while it is trained, and all counts of steps."""

    modes: ClassVar[list[bool]] = []
    weights: ClassVar[set[torch.dtype]] = set()
    outputs: ClassVar[set[torch.dtype]] = set()
    counts: ClassVar[list[tuple[int, int, int]]] = []  # ours, Lightning's steps, its batches

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to a linear layer."""
        model = cast("TrainingModule", pl_module).model
        model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(self._listen)
        self.weights.update(weights.dtype for weights in model.parameters())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Note the counts."""
        loop = trainer.fit_loop.epoch_loop
        ours = cast("TrainingModule", pl_module).consumed
        self.counts.append((ours, trainer.global_step, loop.batch_progress.current.ready))

    def _listen(self, layer: nn.Module, _: object, output: torch.Tensor) -> None:
        self.modes.append(layer.training)
        self.outputs.add(output.dtype)


class CrashAtTheEnd(L.Callback):
    """Breaks when the last step is done and saved."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise RuntimeError."""
        msg = "crashed after the last step"
        raise RuntimeError(msg)
