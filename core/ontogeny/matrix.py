"""`matrix.json`: every checkpoint of a lifecycle, measured by what every stage is measured by.

Row i, column j is checkpoint i under the evaluators of stage j, on the rows of stage j: for all
stages j before i (what was forgotten), for i itself, and for the one that i goes on from (what it
has gained). Lopez-Paz & Ranzato 2017 (R matrix, backward transfer); Chaudhry et al. 2018
(forgetting).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ontogeny.checkpoint import checkpoint_digest
from ontogeny.errors import Interrupted, OntogenyError
from ontogeny.evaluator import Metric, Metrics, less_is_better
from ontogeny.folders import write_text
from ontogeny.keys import measurement_key
from ontogeny.plugins import registry

if TYPE_CHECKING:
    from ontogeny.configuration import RunConfig, StageConfig
    from ontogeny.stage import StageResult
    from ontogeny.store import Store

FILE = "matrix.json"
KIND = "measurements"  # in the store


@dataclass
class Cell:
    """What an evaluator of a stage says of a checkpoint, or why it says nothing."""

    checkpoint: str  # the stage that made it
    stage: str  # whose evaluator and rows it is
    evaluator: str
    metrics: Metrics = field(default_factory=dict)
    reason: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the form that stands in matrix.json."""
        metrics = {name: _form(name, metric) for name, metric in self.metrics.items()}
        head = {"checkpoint": self.checkpoint, "stage": self.stage, "evaluator": self.evaluator}
        return {**head, "metrics": metrics} if self.metrics else {**head, "reason": self.reason}


class Matrix:
    """Grows by a stage at a time; what was measured once comes out of the store."""

    def __init__(
        self, run: RunConfig, folder: Path, store: Store, announce: Callable[[str], None]
    ) -> None:
        self._run = run
        self._file = folder / FILE
        self._store = store
        self._announce = announce
        self._wanted = run.report.matrix and len(run.stages) > 1
        self._checkpoints: dict[str, Path] = {}
        self._parents: dict[str, str | None] = {}  # the stage that a checkpoint goes on from
        self._suites: list[str] = []
        self._cells: list[Cell] = []

    def extend(self, name: str, result: StageResult) -> bool:
        """Measure what a finished stage makes measurable; say whether there is anything new."""
        if not self._wanted or not result.complete:
            return False
        config = self._run.stages[name]
        given = self._maker_of(config.model.source)
        before = list(self._suites)
        if config.evaluator:
            self._suites.append(name)
        if result.checkpoint is None:
            if given is not None:
                self._take(name, given, result)
        else:
            self._checkpoints[name], self._parents[name] = result.checkpoint, given
            self._take(name, name, result)
            if given is not None:
                self._measure(given, name)
            for suite in before:
                self._measure(name, suite)
        self._write()
        return bool(self._cells)

    def _maker_of(self, source: str | None) -> str | None:
        made = {str(folder): name for name, folder in self._checkpoints.items()}
        return made.get(str(source))

    def _take(self, suite: str, checkpoint: str, result: StageResult) -> None:
        """Take what the stage itself has measured."""
        for evaluator in self._run.stages[suite].evaluator:
            if metrics := result.metrics.get(evaluator):
                self._cells.append(Cell(checkpoint, suite, evaluator, metrics))

    def _measure(self, checkpoint: str, suite: str) -> None:
        config = self._run.stages[suite]
        if not config.evaluator:
            return
        folder = self._checkpoints[checkpoint]
        digest = checkpoint_digest("model.source", str(folder))
        session = _Session(config, folder, self._store)
        for evaluator in config.evaluator:
            cell = Cell(checkpoint, suite, evaluator)
            try:
                key = measurement_key(config, evaluator, digest, registry(), self._store)
                if self._store.get(KIND, key) is None:
                    self._announce(
                        f"matrix: {evaluator} of {suite}, on the checkpoint of {checkpoint}"
                    )

                def build(entry: Path, evaluator: str = evaluator) -> None:
                    write_text(entry / "measured.json", json.dumps(session.measure(evaluator)))

                _fill(cell, self._store.create(KIND, key, build))
            except Interrupted:
                raise
            except Exception as error:  # noqa: BLE001  a plugin may fail in any way
                cell.reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._announce(f"matrix: not measured: {cell.reason}")
            self._cells.append(cell)

    def _write(self) -> None:
        content = {
            "checkpoints": list(self._checkpoints),
            "parents": self._parents,
            "stages": self._suites,
            "cells": [cell.as_dict() for cell in self._cells],
            "summary": list(summary(self._cells, self._line())),
        }
        write_text(self._file, json.dumps(content, indent=2) + "\n")

    def _line(self) -> list[str]:
        """Return the stages that the last checkpoint comes from, the oldest first."""
        line: list[str] = []
        name = next(reversed(self._checkpoints), None)
        while name is not None and name not in line:
            line.insert(0, name)
            name = self._parents[name]
        return line


class _Session:
    """Measures one checkpoint with evaluators of one stage; the model is loaded when needed."""

    def __init__(self, config: StageConfig, checkpoint: Path, store: Store) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._store = store
        self._remeasurement: object = None

    def measure(self, evaluator: str) -> dict[str, object]:
        """Return metrics, or the reason why there are none, as the store keeps them."""
        from ontogeny.remeasurement import Remeasurement  # noqa: PLC0415  imports torch

        try:
            if self._remeasurement is None:
                self._remeasurement = Remeasurement(self._config, self._checkpoint, self._store)
            metrics = cast("Remeasurement", self._remeasurement).run(evaluator)
        except Interrupted:
            raise
        except OntogenyError as error:  # it would be the same the next time
            return {"reason": str(error)}
        return {"metrics": {name: _form(name, metric) for name, metric in metrics.items()}}


def _fill(cell: Cell, entry: Path) -> None:
    found = json.loads((entry / "measured.json").read_text())
    cell.reason = found.get("reason")
    cell.metrics = {name: Metric(**values) for name, values in found.get("metrics", {}).items()}


def _form(name: str, metric: Metric) -> dict[str, object]:
    less = metric.less_is_better
    return {
        **metric.as_dict(),
        "less_is_better": less_is_better(name) if less is None else less,
    }


def summary(cells: Sequence[Cell], line: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield gain, backward transfer and forgetting of every metric along a line of checkpoints.

    With R[i, j] a metric of stage j on checkpoint i, T the last checkpoint, and signs so that more
    is better: gain R[j, j] - R[j - 1, j], backward transfer R[T, j] - R[j, j], and forgetting
    max over l < T of R[l, j], less R[T, j]. Clear is what leaves the 95 % interval of R[j, j].
    """
    for (stage, evaluator, name), metrics in _series(cells, line).items():
        own = metrics.get(stage)
        last = metrics.get(line[-1])
        found = next(iter(metrics.values()))
        sign = -1.0 if _form(name, found)["less_is_better"] else 1.0
        row: dict[str, object] = {"stage": stage, "evaluator": evaluator, "metric": name}
        row |= {"unit": found.unit, "less_is_better": sign < 0}
        at = line.index(stage) if stage in line else None
        if own is not None and at and (before := metrics.get(line[at - 1])) is not None:
            row["gain"] = sign * (own.value - before.value)
            row["gain_is_clear"] = _is_clear(own, before.value)
        if own is not None and last is not None and stage != line[-1]:
            row["backward_transfer"] = sign * (last.value - own.value)
        earlier = [sign * metric.value for place, metric in metrics.items() if place != line[-1]]
        if last is not None and earlier and stage != line[-1]:
            row["forgetting"] = max(earlier) - sign * last.value
            row["forgetting_is_clear"] = own is None or _is_clear(own, last.value)
        yield row


def _is_clear(own: Metric, other: float) -> bool:
    """Say whether a value lies outside the 95 % interval of a stage's own, where it has one."""
    if own.low is None or own.high is None:
        return True
    return not own.low <= other <= own.high


def _series(
    cells: Sequence[Cell], line: Sequence[str]
) -> Mapping[tuple[str, str, str], dict[str, Metric]]:
    """Return each metric of each stage along the line, by checkpoint."""
    found: dict[tuple[str, str, str], dict[str, Metric]] = {}
    for cell in cells:
        for name, metric in cell.metrics.items() if cell.checkpoint in line else ():
            found.setdefault((cell.stage, cell.evaluator, name), {})[cell.checkpoint] = metric
    return found
