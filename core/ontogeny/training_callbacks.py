"""What happens at step borders: saving, stopping, evaluating."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import lightning as L
import torch

from ontogeny.training_state import prune

if TYPE_CHECKING:
    from ontogeny.data.loader import StepSampler
    from ontogeny.interruption import Interruption
    from ontogeny.lightning_module import TrainingModule
    from ontogeny.metrics_log import MetricsBuffer


class ResumePosition(L.Callback):
    """Sets the sampler to where a training state stopped, before any worker starts."""

    def __init__(self, sampler: StepSampler) -> None:
        self.sampler = sampler

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Note what a step is, which another number of devices must not change."""
        del trainer, pl_module
        checkpoint["rows_per_step"] = self.sampler.rows_per_step

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Read our own count of steps."""
        del trainer, pl_module
        self.sampler.start = int(cast("int", checkpoint["consumed"]))


class SaveAndStop(L.Callback):
    """Saves training states, and ends the fit at a step border when it is asked to."""

    def __init__(
        self,
        folder: Path,
        buffer: MetricsBuffer,
        interruption: Interruption,
        *,
        every_steps: int | None,
        every_minutes: float | None,
        max_seconds: float | None,
    ) -> None:
        self.folder = folder
        self._buffer = buffer
        self._interruption = interruption
        self._every_steps = every_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self._max_seconds = max_seconds
        self._began = self._saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back: Lightning has just set handlers of its own."""
        del trainer, pl_module
        self._began = self._saved = time.monotonic()
        self._interruption.install()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save when it is due; stop when a signal came or the time is up."""
        del outputs, batch, batch_idx
        module = cast("TrainingModule", pl_module)
        signalled, late, due = self._agree(trainer, module)
        if signalled or late or due:
            self.save(trainer, module)
        if signalled or late:
            trainer.should_stop = True

    def stop(self) -> None:
        """End the fit at the next step border, as if its time were up."""
        self._max_seconds = 0.0

    def save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Write a training state of the current step, then forget all but two."""
        self._buffer.flush()
        module.check_finite()
        trainer.save_checkpoint(self.folder / f"step-{module.consumed:08d}")
        if trainer.is_global_zero:
            prune(self.folder)
        self._saved = time.monotonic()

    def _agree(self, trainer: L.Trainer, module: TrainingModule) -> tuple[bool, bool, bool]:
        """Return (signal, out of time, due to save) as all ranks see it."""
        now = time.monotonic()
        wishes = [
            self._interruption.received is not None,
            self._max_seconds is not None and now - self._began >= self._max_seconds,
            (self._every_steps is not None and module.consumed % self._every_steps == 0)
            or (self._every_seconds is not None and now - self._saved >= self._every_seconds),
        ]
        if trainer.world_size > 1:
            flags = torch.tensor(wishes, dtype=torch.float32, device=module.device)
            reduced = cast("torch.Tensor", trainer.strategy.reduce(flags, reduce_op="sum"))
            wishes = [bool(flag) for flag in reduced > 0]
        return wishes[0], wishes[1], wishes[2]


class TellSteps(L.Callback):
    """Tells whoever watches how many steps are done, and how many tokens were in them."""

    def __init__(
        self, tell: Callable[[int, int, float], None], steps: int, tokens_per_step: float
    ) -> None:
        self.tell = tell
        self.steps = steps
        self.tokens_per_step = tokens_per_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell where a run begins, or goes on."""
        del trainer
        self._tell(pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Tell after every step; nothing is read from the device."""
        del trainer, outputs, batch, batch_idx
        self._tell(pl_module)

    def _tell(self, pl_module: L.LightningModule) -> None:
        done = cast("TrainingModule", pl_module).consumed
        self.tell(done, self.steps, done * self.tokens_per_step)


class EvaluateEvery(L.Callback):
    """Calls an evaluation before the first step and after every n; it may end the fit."""

    def __init__(self, every: int, evaluate: Callable[[TrainingModule], None]) -> None:
        self.every = every
        self.evaluate = evaluate

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the model as it was given, unless the run goes on from a training state."""
        if cast("TrainingModule", pl_module).consumed == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Evaluate after every n steps."""
        del outputs, batch, batch_idx
        if cast("TrainingModule", pl_module).consumed % self.every == 0:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast("TrainingModule", pl_module)
        self.evaluate(module)
        if module.ended:
            trainer.should_stop = True
