"""Which of a run's evaluations was the best: training ends there, or its weights are kept."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from safetensors.torch import load_file, save_file

from ontogeny.evaluator import find_metric, less_is_better
from ontogeny.folders import verify_manifest, write_folder, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ontogeny.evaluator import Metric, Metrics
    from ontogeny.lightning_module import TrainingModule
    from ontogeny.options import Trainer

WEIGHTS = "weights.safetensors"


class BestEvaluation(L.Callback):
    """Remembers the best value of a metric, in the training state too."""

    def __init__(self, options: Trainer, folder: Path, announce: Callable[[str], None]) -> None:
        self.metric = cast("str", options.monitor)
        self.patience = options.patience
        self.keeps = options.keep_best
        self.mode, self.sign = options.monitor_mode, _sign(options)
        self.folder = folder / "best"
        self.announce = announce
        self.best: float | None = None
        self.since = 0  # evaluations without a better one

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add what was found to the training state."""
        del trainer, pl_module
        checkpoint["best_evaluation"] = [self.best, self.since]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Take it out of the training state."""
        del trainer, pl_module
        found = cast("tuple[float | None, int]", checkpoint["best_evaluation"])
        self.best, self.since = found

    def look(self, module: TrainingModule, results: dict[str, Metrics]) -> None:
        """Compare an evaluation with the best one; `module.ended` is set when patience is over."""
        metric = find_metric("trainer.monitor", self.metric, results)
        value, sign = metric.value, self._sign(metric)
        # A value that is not a number is better than none.
        if self.best is None or isnan(self.best) or sign * value > sign * self.best:
            self.best, self.since = value, 0
            if self.keeps and module.global_rank == 0:
                self._keep(module)
            return
        self.since += 1
        if self.patience is not None and self.since >= self.patience:
            self.announce(
                f"{self.metric} has not been better than {self.best:.4g} for {self.since} "
                f"evaluations; the stage ends at step {module.consumed} (trainer.patience)"
            )
            module.ended = True

    def restore(self, module: TrainingModule) -> None:
        """Put the best weights back; raise CheckpointError if their files are damaged."""
        step = int(cast("int", verify_manifest(self.folder)["step"]))
        missing = module.model.load_state_dict(load_file(self.folder / WEIGHTS), strict=False)
        assert not missing.unexpected_keys  # noqa: S101  they are this model's own
        self.announce(f"the weights are those of step {step}, the best in {self.metric}")

    def _keep(self, module: TrainingModule) -> None:
        """Write the weights that training changes, and buffers."""
        frozen = {name for name, each in module.model.named_parameters() if not each.requires_grad}
        weights = module.model.state_dict()
        kept = {name: each for name, each in weights.items() if name not in frozen}
        with write_folder(self.folder, replace=True) as unfinished:
            save_file(_without_shared_memory(kept), unfinished / WEIGHTS)
            write_manifest(unfinished, step=module.consumed)

    def _sign(self, metric: Metric) -> int:
        """Return 1 where more is better, else -1: the metric may say so itself."""
        if self.mode != "auto" or metric.less_is_better is None:
            return self.sign
        return -1 if metric.less_is_better else 1


def _without_shared_memory(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as the file takes them: tied weights once, all contiguous."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            kept[name] = tensor.detach().contiguous()
        seen.add(tensor.data_ptr())
    return kept


def _sign(options: Trainer) -> int:
    less = less_is_better(cast("str", options.monitor))
    return {"min": -1, "max": 1, "auto": -1 if less else 1}[options.monitor_mode]
