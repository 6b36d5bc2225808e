"""A run that is killed and started again must end in the same bytes as one that never was."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, cast

import lightning as L

from ontogeny.api import run
from ontogeny.digest import sha256_file
from ontogeny.errors import OntogenyError
from ontogeny.options import Source
from ontogeny.testing.contract import ContractError, require
from ontogeny.testing.trial import store_at

if TYPE_CHECKING:
    from pathlib import Path

    from ontogeny.lightning_module import TrainingModule
    from ontogeny.testing.trial import Trial

STEPS, CRASH, EVERY = 4, 3, 2


class Crash(RuntimeError):
    """What `CrashAt` raises."""


class CrashAt(L.Callback):
    """Ends a training run after so many steps, as a fault of the machine would.

    `callbacks.crash._target_=ontogeny.testing.CrashAt callbacks.crash.step=3`
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Raise Crash when the time has come."""
        del trainer, batch, batch_idx
        if cast("TrainingModule", pl_module).consumed == self.step:
            raise Crash(f"crashed after {self.step} steps, as it was told")


def check_resume(made: Trial, file: Path) -> None:
    """Compare the weights of two runs on the rows of `file`: one whole, one that crashed once."""
    whole = _weights(_run(made, file, "whole"))
    try:
        _run(made, file, "crashed", crash=True)
    except Crash:
        resumed = _weights(_run(made, file, "crashed", resume="must"))
    else:
        raise ContractError(f"{made.who}: a run of {STEPS} steps ended before step {CRASH}")
    different = sorted(name for name in whole if whole[name] != resumed.get(name))
    broken = (
        f"a run that crashed at step {CRASH} and went on from step {EVERY} has other weights than "
        f"one that never did ({', '.join(different)})"
    )
    mend = "keep no state between steps, and draw random numbers from torch's generator alone"
    require(not different, made.who, broken, mend)


def _run(made: Trial, file: Path, name: str, *, crash: bool = False, resume: str = "auto") -> Path:
    """Run the stage in the store called `name`; return its checkpoint."""
    config = deepcopy(made.run)
    stage = next(iter(config.stages.values()))
    stage.evaluator, stage.resume = {}, resume
    stage.preflight = stage.preflight and name == "whole"  # proved once
    stage.data.sources = {"data": Source(str(file))}
    stage.data.path, stage.data.batch_size = None, 2
    stage.trainer.max_steps, stage.trainer.max_epochs = STEPS, None
    stage.trainer.accumulate_grad_batches, stage.trainer.save_every_steps = 2, EVERY
    stage.trainer.progress = False
    if crash:
        target = {"_target_": f"{CrashAt.__module__}.{CrashAt.__name__}", "step": CRASH}
        stage.callbacks = {**stage.callbacks, "crash": target}
    with store_at(made.folder / f"store-{name}"):
        try:
            result = run(config, made.folder / f"run-{name}")
        except OntogenyError as error:
            raise ContractError(f"{made.who}: a run of {STEPS} steps fails: {error}") from error
    if result.checkpoint is None:
        raise ContractError(f"{made.who}: a run of {STEPS} steps left no checkpoint")
    return result.checkpoint


def _weights(checkpoint: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in checkpoint.glob("*.safetensors")}
