"""`logs/metrics.csv`: what training and evaluations measured, by step, also across restarts."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loggers import Logger
from typing_extensions import override

from ontogeny.disk_space import full_disk_error, full_disk_reason
from ontogeny.folders import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    Row = Mapping[str, object]


class MetricsFile(Logger):
    """Writes `<folder>/metrics.csv` and continues it after a restart.

    Rows of steps that will be computed again are dropped, so that the file of a run that was
    killed equals that of a run that never was. (Lightning's CSVLogger begins anew, and loses
    everything when it is killed while a new column makes it write the file again.)
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "metrics.csv"
        kept = [row for row in _rows(self.file) if _is_before(row, first_step)]
        self._columns = list(kept[0]) if kept else ["step"]
        self._pending: list[Row] = []
        write_text(self.file, _text(self._columns, kept, header=True))

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @override
    def log_hyperparams(self, params: object = None, *_: object, **__: object) -> None:
        """Leave them out: the run's folder and the lineage hold the whole config."""

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Note a row; `save` writes it."""
        self._pending.append({"step": step, **metrics})

    @override
    def save(self) -> None:
        """Append what waits; write the file anew, as a whole, when there is a new column."""
        pending, self._pending = self._pending, []
        new = sorted({name for row in pending for name in row} - set(self._columns))
        if new:
            self._columns += new
            rows = [*_rows(self.file), *pending]
            write_text(self.file, _text(self._columns, rows, header=True))
        elif pending:
            self._append(_text(self._columns, pending, header=False))

    def _append(self, text: str) -> None:
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = full_disk_reason(error)
            if reason is not None:
                raise full_disk_error(self.file, len(text), reason) from error
            raise


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
        """Hand numbers to every log, after those of the steps before."""
        self.flush()
        self._hand_out(step, values)

    def flush(self) -> None:
        """Write all that waits to every log: one synchronisation with the device."""
        pending, self._pending = self._pending, []
        for step, values in pending:
            self.last = {name: float(value) for name, value in values.items()}
            self._hand_out(step, self.last)
        for logger in self.loggers:
            logger.save()

    def _hand_out(self, step: int, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step)


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a file, without a last line that a full disk or a power cut left torn."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(io.StringIO(whole)))


def _is_before(row: Mapping[str, str], step: int) -> bool:
    """Say whether a row was measured before a step began, as its evaluation was."""
    if not (row["step"] or "").isdigit():  # no row at all, but what a power cut made of one
        return False
    number = int(row["step"])
    return number < step or (number == step and not row.get("train/loss"))


def _text(columns: Sequence[str], rows: Iterable[Row], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
