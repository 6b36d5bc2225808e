"""A whole run: its stages in order, each fed with the checkpoint of the one before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from ontogeny.evaluation import write_metrics
from ontogeny.interruption import Interruption
from ontogeny.keys import package_versions
from ontogeny.plugins import registry
from ontogeny.ranks import is_first_rank
from ontogeny.run_folder import Status
from ontogeny.stage_run import StageRun
from ontogeny.store import Store, home

if TYPE_CHECKING:
    from ontogeny.configuration import RunConfig
    from ontogeny.evaluator import Metrics
    from ontogeny.stage import StageResult


@dataclass
class RunResult:
    """What a run leaves: its folder and the result of each stage, in order."""

    folder: Path
    stages: dict[str, StageResult] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint of the last stage that made one."""
        made = [result.checkpoint for result in self.stages.values() if result.checkpoint]
        return made[-1] if made else None

    @property
    def metrics(self) -> dict[str, dict[str, Metrics]]:
        """Metrics by stage, evaluator and name."""
        return {name: result.metrics for name, result in self.stages.items()}

    @property
    def complete(self) -> bool:
        """False when `trainer.max_time` ended a stage before its last step."""
        return all(result.complete for result in self.stages.values())


def run_stages(
    config: RunConfig, folder: str | Path | None, announce: Callable[[str], None]
) -> RunResult:
    """Run every stage and keep metrics.json and status.json of the run up to date."""
    registry().check()
    result = RunResult(_run_folder(folder))
    if not is_first_rank():
        _follow(config, result)
        return result
    status = Status(result.folder, package_versions())
    try:
        with Interruption() as interruption:
            _run_in_order(config, result, status, interruption, announce)
    except BaseException as error:
        status.fail(error)
        raise
    status.finish(complete=result.complete)
    registry().manager.hook.ontogeny_run_finished(result=result)
    return result


def _run_in_order(
    config: RunConfig,
    result: RunResult,
    status: Status,
    interruption: Interruption,
    announce: Callable[[str], None],
) -> None:
    for run in _stage_runs(config, result, interruption, announce):
        result.stages[run.name] = run.run(result.folder, status)
        write_metrics(result.folder / "metrics.json", result.metrics)


def _follow(config: RunConfig, result: RunResult) -> None:
    """Do the part of another rank, which torchrun or SLURM has started: nothing but the fits."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the first rank says it all
    with Interruption() as interruption:
        for run in _stage_runs(config, result, interruption, lambda _: None):
            result.stages[run.name] = run.follow()


def _stage_runs(
    config: RunConfig,
    result: RunResult,
    interruption: Interruption,
    announce: Callable[[str], None],
) -> Iterator[StageRun]:
    """Yield the stages in order, each fed with the last checkpoint, until one is unfinished."""
    store = Store(home())
    for name, stage in config.stages.items():
        if result.complete:
            if result.checkpoint is not None and stage.model.source is None:
                stage.model.source = str(result.checkpoint)
            yield StageRun(name, stage, config.overrides, store, interruption, announce)


def _run_folder(folder: str | Path | None) -> Path:
    if folder is None:
        now = datetime.now().astimezone()
        folder = Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{token_hex(2)}"
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path
