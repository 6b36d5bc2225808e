"""`logs/metrics.csv`: what training and evaluations measured, by step, also across restarts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loggers import CSVLogger, Logger

if TYPE_CHECKING:
    from collections.abc import Iterable


class MetricsFile(CSVLogger):
    """Lightning's CSV log as `<folder>/metrics.csv`, continued after a restart.

    Rows of steps that will be computed again are dropped, so that the file of a run that was
    killed equals that of a run that never was.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__(save_dir=folder, name="", version="")
        file = folder / "metrics.csv"
        kept = [row for row in _rows(file) if int(row["step"]) < first_step]
        file.unlink(missing_ok=True)
        if kept:
            writer = self.experiment
            writer.metrics = [dict(row) for row in kept]
            writer.save()


class MetricsBuffer:
    """Keeps the numbers of each step on their device and writes them a few steps at a time."""

    def __init__(self, loggers: Iterable[Logger], every: int) -> None:
        self.loggers = list(loggers)
        self.every = every
        self.last: dict[str, float] = {}
        self._pending: list[tuple[int, dict[str, torch.Tensor | float]]] = []

    def add(self, step: int, values: dict[str, torch.Tensor | float]) -> None:
        """Note the values of a step; write when `every` steps are waiting."""
        self._pending.append((step, values))
        if len(self._pending) >= self.every:
            self.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Hand numbers to every log."""
        for logger in self.loggers:
            logger.log_metrics(values, step)

    def flush(self) -> None:
        """Write all that waits to every log: one synchronisation with the device."""
        for step, values in self._pending:
            self.last = {name: float(value) for name, value in values.items()}
            self.write(step, self.last)
        self._pending.clear()
        for logger in self.loggers:
            logger.save()


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if (row.get("step") or "").isdigit()]
    return [{key: value for key, value in row.items() if key} for row in rows]
