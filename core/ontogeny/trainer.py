"""The Lightning trainer, assembled out of our options."""

from __future__ import annotations

import logging
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.plugins.precision import HalfPrecision
from transformers.utils.logging import disable_progress_bar

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
    from lightning.pytorch.loggers import Logger

    from ontogeny.options import Trainer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class WeightsInBFloat16(HalfPrecision):
    """The model is in bfloat16, and all other numbers stay as they are.

    Lightning would round what the batch says of the data (labels to predict, weights of classes,
    scores of a reference), and count in bfloat16, which knows no whole number between 256 and 258.
    """

    def convert_input(self, data: object) -> object:
        """Return the batch."""
        return data

    @contextmanager
    def forward_context(self) -> Generator[None]:
        """Leave the type of new tensors alone."""
        yield


def build_trainer(
    options: Trainer,
    *,
    folder: Path,
    precision: str,
    callbacks: Sequence[L.Callback],
    loggers: Sequence[Logger],
    checkpoint_io: CheckpointIO,
    ranks: ClusterEnvironment | None = None,
) -> L.Trainer:
    """Return a trainer without Lightning's own saving, signals and samplers: ours replace them."""
    _quieten()
    plugins: list[object] = [checkpoint_io]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    elif (
        ranks and "LOCAL_RANK" not in os.environ
    ):  # nobody else has started this process as one of several
        plugins.append(ranks)
    named: str | None = precision
    if precision == "bf16-true" and not options.strategy.startswith(("fsdp", "deepspeed")):
        plugins.append(WeightsInBFloat16("bf16-true"))
        named = None  # Lightning takes a name or a plugin
    try:
        return L.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=named,  # type: ignore[arg-type]
            max_epochs=1,  # the loader is as long as the run
            logger=list(loggers),
            callbacks=list(callbacks),
            plugins=plugins,  # type: ignore[arg-type]
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,  # the display of the whole run has one
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            log_every_n_steps=1,
        )
    except (
        ValueError,
        RuntimeError,
        L.fabric.utilities.exceptions.MisconfigurationException,
    ) as error:
        msg = f"trainer: {error}".replace("\n", " ")
        raise ConfigError(msg) from error


def seconds(text: str | None) -> float | None:
    """Return the seconds of `90s`, `10m`, `2h`, `1d`, plain seconds, or `DD:HH:MM:SS`."""
    if text is None:
        return None
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip()):
        return float(found.group(1)) * _UNITS[found.group(2) or "s"]
    if re.fullmatch(r"(\d+:){1,3}\d+", text.strip()):
        parts = [int(part) for part in text.split(":")][::-1]
        return float(sum(part * unit for part, unit in zip(parts, _UNITS.values(), strict=False)))
    msg = f"trainer.max_time is {text!r}; expected 90s, 10m, 2h, 1d or DD:HH:MM:SS"
    raise ConfigError(msg)


def _quieten() -> None:
    """Leave out what Lightning says about itself; its warnings about the run stay."""
    disable_progress_bar()  # of transformers, one for each file that it writes
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",  # batches here are slices of mapped memory
        ".*You called `self.log.*",
        ".*persistent_workers=True.*",  # there is one epoch, so workers start once
        ".*your dataloader is not resumable.*",  # ours is: it begins where the training state ended
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", pattern)
