"""A whole run: its stages in order, each fed with the checkpoint of the one before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from ontogeny.evaluation import write_metrics
from ontogeny.interruption import Interruption
from ontogeny.keys import package_versions
from ontogeny.lineage import command_of
from ontogeny.matrix import Matrix
from ontogeny.plugins import registry
from ontogeny.progress import Progress
from ontogeny.ranks import is_first_rank
from ontogeny.report.page import Page
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
    def makers(self) -> dict[str, str]:
        """The stage that has made each checkpoint, by the checkpoint's folder."""
        made = {name: result.checkpoint for name, result in self.stages.items()}
        return {str(folder): name for name, folder in made.items() if folder is not None}

    @property
    def complete(self) -> bool:
        """False when `trainer.max_time` ended a stage before its last step."""
        return all(result.complete for result in self.stages.values())


def run_stages(config: RunConfig, folder: str | Path | None, progress: Progress) -> RunResult:
    """Run every stage and keep metrics.json, status.json and report.html up to date."""
    registry().check()
    result = RunResult(_run_folder(folder))
    if not is_first_rank():
        _follow(config, result)
        return result
    page = Page(result.folder)
    status = Status(result.folder, package_versions(), command_of(config), page.write)
    progress.watch(page.refresh)
    progress.begin(list(config.stages))
    try:
        with Interruption() as interruption, progress:
            _run_in_order(config, result, status, interruption, progress)
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
    progress: Progress,
) -> None:
    matrix = Matrix(config, result.folder, Store(home()), progress.announce)
    for run in _stage_runs(config, result, interruption, progress):
        result.stages[run.name] = run.run(result.folder, status)
        write_metrics(result.folder / "metrics.json", result.metrics)
        if matrix.extend(run.name, result.stages[run.name]):
            status.refresh()


def _follow(config: RunConfig, result: RunResult) -> None:
    """Do the part of another rank, which torchrun or SLURM has started: nothing but the fits."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the first rank says it all
    with Interruption() as interruption:
        for run in _stage_runs(config, result, interruption, Progress(lambda _: None)):
            result.stages[run.name] = run.follow()


def _stage_runs(
    config: RunConfig,
    result: RunResult,
    interruption: Interruption,
    progress: Progress,
) -> Iterator[StageRun]:
    """Yield the stages in order, each fed with the last checkpoint, until one is unfinished."""
    store = Store(home())
    for name, stage in config.stages.items():
        if result.complete:
            if result.checkpoint is not None and stage.model.source is None:
                stage.model.source = str(result.checkpoint)
            yield StageRun(name, config, store, interruption, progress, result.makers)


def _run_folder(folder: str | Path | None) -> Path:
    if folder is None:
        now = datetime.now().astimezone()
        folder = Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{token_hex(2)}"
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path
