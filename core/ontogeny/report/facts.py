"""What a run's folder says of it so far, read for the page; what is missing is left out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ontogeny.budget import read_budget
from ontogeny.checkpoint import LINEAGE
from ontogeny.report.section import Point
from ontogeny.stage import AFTER, BEFORE
from ontogeny.weights import count_parameters

Json = dict[str, Any]  # as it stands in a file of the run
Curves = dict[str, dict[str, list[Point]]]  # title of a chart, name of a line, points
TRAIN, EVALUATION = "train/", "evaluation/"
FIRST = "train/loss"  # the curve that is looked at first


@dataclass(frozen=True)
class StageFacts:
    """One stage of a run, by the files in its folder."""

    name: str
    state: str
    folder: Path  # there is none where the stage has not begun

    @cached_property
    def lineage(self) -> Json:
        """The stage's configuration and data, of its checkpoint where there is one."""
        return _read(self.folder / "checkpoint" / LINEAGE) or _read(self.folder / LINEAGE)

    @cached_property
    def metrics(self) -> Json:
        """What was measured at the end, by evaluator and metric."""
        return next(iter(_read(self.folder / "metrics.json").values()), {})

    @cached_property
    def budget(self) -> Json:
        """Seconds, attempts and bytes."""
        return dict(read_budget(self.folder))

    @cached_property
    def tokens(self) -> int | None:
        """How many tokens were trained on."""
        counts = [source.get("tokens") for source in self.lineage.get("data", [])]
        return sum(counts) if counts and None not in counts else None

    @cached_property
    def steps(self) -> int | None:
        """Optimiser steps that are done."""
        if "steps" in self.lineage:
            return int(self.lineage["steps"])
        points = [p for lines in self.training.values() for each in lines.values() for p in each]
        return 1 + int(max(step for step, _ in points)) if points else None

    @cached_property
    def parameters(self) -> int:
        """The number of weights of the checkpoint."""
        return count_parameters(self.folder / "checkpoint")

    @cached_property
    def training(self) -> Curves:
        """One chart for each number of the training, the loss first."""
        found = {
            name.removeprefix(TRAIN): {name.removeprefix(TRAIN): points}
            for name, points in self._columns.items()
            if not name.startswith(EVALUATION)
        }
        return dict(sorted(found.items(), key=lambda item: item[0] != FIRST.removeprefix(TRAIN)))

    @cached_property
    def evaluations(self) -> Curves:
        """One chart for each metric of an evaluator, with a line for each of its parts."""
        found: Curves = {}
        for name, points in self._columns.items():
            if name.startswith(EVALUATION):
                evaluator, metric, *parts = name.removeprefix(EVALUATION).split("/")
                part = "/".join(parts) or "all"
                found.setdefault(f"{evaluator}/{metric}", {})[part] = points
        return found

    @cached_property
    def samples(self) -> tuple[list[str], list[list[object]]]:
        """The columns and rows of what the model wrote, before beside after."""
        return sample_table(_list(self.folder / BEFORE), _list(self.folder / AFTER))

    @cached_property
    def _columns(self) -> dict[str, list[Point]]:
        return read_curves(self.folder / "logs" / "metrics.csv")


@dataclass(frozen=True)
class RunFacts:
    """A run, by the files in its folder."""

    folder: Path

    @cached_property
    def status(self) -> Json:
        """State, reason, times, versions and command."""
        return _read(self.folder / "status.json")

    @cached_property
    def matrix(self) -> Json:
        """Every checkpoint under every stage's evaluators."""
        return _read(self.folder / "matrix.json")

    @cached_property
    def stages(self) -> list[StageFacts]:
        """The stages in order, those that are waiting too."""
        states = self.status.get("stages", {})
        planned = self.status.get("run", {}).get("stages", [])
        return [
            StageFacts(name, states.get(name, "waiting"), self.folder / "stages" / name)
            for name in dict.fromkeys([*planned, *states])
        ]


def read_curves(file: Path) -> dict[str, list[Point]]:
    """Return the points of each column of a metrics.csv; what is no number is passed over."""
    columns: dict[str, list[Point]] = {}
    if not file.exists():
        return columns
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = _float(row.get("step"))
            for name, text in row.items():
                value = _float(text)
                if name and name != "step" and step is not None and value is not None:
                    columns.setdefault(name, []).append((step, value))
    return columns


def sample_table(
    before: Sequence[Json], after: Sequence[Json]
) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows of samples: those of `after`, with the text before beside the text.

    Rows belong together by their prompt and by its how-manieth sample it is.
    """
    earlier = {key: row.get("text", "") for key, row in _numbered(before)}
    later = dict(_numbered(after))
    names = dict.fromkeys(name for row in (*after, *before) for name in row)
    facts = [name for name in names if name not in {"prompt", "text"}]
    columns = ["prompt"] * ("prompt" in names) + ["before"] * bool(earlier)
    columns += [("after" if earlier else "text")] * bool(later) + facts
    rows: list[list[object]] = []
    for key in {**earlier, **later}:
        row = later.get(key, {})
        cells: dict[str, object] = {"prompt": key[0], "before": earlier.get(key, "")}
        cells |= {"after": row.get("text", ""), "text": row.get("text", "")}
        rows.append([cells.get(name, row.get(name, "")) for name in columns])
    return columns, rows


def _numbered(rows: Sequence[Json]) -> list[tuple[tuple[str, int], Json]]:
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        prompt = str(row.get("prompt", ""))
        seen[prompt] = seen.get(prompt, -1) + 1
        found.append(((prompt, seen[prompt]), row))
    return found


def _float(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read(file: Path) -> Json:
    """Return a JSON object; an empty one where there is no file, or one that is being written."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(file: Path) -> list[Json]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
