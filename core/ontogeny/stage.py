"""The contract of a stage: it takes a checkpoint, or nothing, and returns one and metrics."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ontogeny.configuration import StageConfig
    from ontogeny.evaluator import Metrics
    from ontogeny.interruption import Interruption
    from ontogeny.objective import Row
    from ontogeny.plugins import Registry
    from ontogeny.store import Store


BEFORE, AFTER = "samples_before.json", "samples.json"  # in the folder of a stage


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it, and what else there is to say of it."""

    prompt: str
    text: str
    columns: Mapping[str, object] = field(default_factory=dict)  # more to show, as its reward

    def as_dict(self) -> dict[str, object]:
        """Return the form that stands in samples.json: one column for each fact."""
        return {"prompt": self.prompt, "text": self.text, **self.columns}


def read_samples(file: Path) -> list[Sample]:
    """Return the samples of a samples.json; none where there is no such file."""
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    samples = []
    for row in rows:
        columns = {name: value for name, value in row.items() if name not in {"prompt", "text"}}
        samples.append(Sample(str(row.get("prompt", "")), str(row.get("text", "")), columns))
    return samples


@dataclass(frozen=True)
class Advice:
    """What a stage advises those after it that are asked to listen: `stages.<name>.when`."""

    path: str  # the word that is compared, as in when=<stage>:<path>
    # Options by their key within a stage, as data.sources.general.weight, and plain values (JSON).
    # `adapter` is a list of names. What the user has set himself stays.
    options: dict[str, object] = field(default_factory=dict)


@dataclass
class StageResult:
    """What a stage leaves: a checkpoint folder, metrics by evaluator, or both."""

    checkpoint: Path | None = None
    metrics: dict[str, Metrics] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    steps: int = 0  # optimiser steps of the finished stage
    complete: bool = True  # False: `trainer.max_time` ran out; the same command goes on
    advice: Advice | None = None


@dataclass
class StageContext:
    """What a stage is given to work with."""

    name: str
    config: StageConfig
    registry: Registry
    store: Store
    folder: Path  # unfinished work of exactly this stage; survives a crash, ends in the store
    key: str  # content address of the stage
    lineage: dict[str, object]  # what goes into the checkpoint's lineage.json
    interruption: Interruption
    announce: Callable[[str], None]  # say a line to the user
    overrides: list[str] = field(default_factory=list)  # keys of this stage that the user set
    # told of every evaluation in the loop, by step; true: the stage is to end there, unfinished
    watch: Callable[[int, dict[str, Metrics]], bool] = lambda *_: False
    # take optimiser steps done, all of them, and tokens done, for whoever watches
    steps: Callable[[int, int, float], None] = field(default=lambda *_: None)


class Stage(ABC):
    """One step of a model's life; built as `Implementation(options)`."""

    def check(self, config: StageConfig) -> None:
        """Raise ConfigError for what the stage needs and does not have.

        Called for all stages before the first one runs: `model.source` may be that of a stage
        before, which does not exist yet.
        """
        del config

    @abstractmethod
    def run(self, context: StageContext) -> StageResult:
        """Do the work in `context.folder`; running again after a crash must go on, not restart."""

    def measured_rows(
        self, config: StageConfig, registry: Registry
    ) -> Mapping[str, Sequence[Row]] | None:
        """Return the rows that the stage's evaluators measure, by source; they are read again.

        Other checkpoints of the lifecycle are measured on them, too. None: they cannot be.
        """
        del config, registry
        return None
