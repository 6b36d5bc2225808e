"""A whole run: its stages in order, each fed with the checkpoint of the one before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from ontogeny.errors import Interrupted, OntogenyError
from ontogeny.evaluation import write_metrics
from ontogeny.interruption import Interruption
from ontogeny.keys import package_versions
from ontogeny.lineage import command_of
from ontogeny.matrix import Matrix
from ontogeny.plan import Plan
from ontogeny.plugins import registry
from ontogeny.progress import Progress
from ontogeny.pruning import Pruning
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
    left_out: dict[str, str] = field(default_factory=dict)  # stages that were not run, and why
    pruned: str | None = None  # why the run was ended early (`sweep.prune`)

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
        chain = _Chain(config, result, progress)
        with Interruption() as chain.interruption, chain.store.running(result.folder), progress:
            chain.run(status)
    except BaseException as error:
        status.fail(error)
        raise
    status.finish(complete=result.complete, pruned=result.pruned)
    registry().manager.hook.ontogeny_run_finished(result=result)
    return result


class _Chain:
    """The stages of a run, one after the other, each with its checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        result: RunResult,
        progress: Progress,
    ) -> None:
        self.config = config
        self.result = result
        self.interruption = Interruption()
        self.progress = progress
        self.store = Store(home())
        self.plan = Plan(config, registry())
        self.pruning = Pruning(result.folder, config.sweep)

    def run(self, status: Status) -> None:
        """Run what is to be run; say what is left out, and why."""
        for name, reason in self.plan.left_out.items():
            self._leave_out(name, reason, status)
        self.plan.check(self.store)
        matrix = Matrix(self.config, self.result.folder, self.store, self.progress.announce)
        for run in self._runs(lambda name, reason: self._leave_out(name, reason, status)):
            run.watch = partial(self.pruning.look, run.name)
            with self._explaining(run.name):
                self.result.stages[run.name] = run.run(self.result.folder, status)
            write_metrics(self.result.folder / "metrics.json", self.result.metrics)
            if matrix.extend(run.name, self.result.stages[run.name]):
                status.refresh()
        self.result.pruned = self.pruning.reason

    def follow(self) -> None:
        """Do the part of another rank: nothing but the fits."""
        for run in self._runs(lambda *_: None):
            self.result.stages[run.name] = run.follow()

    def _leave_out(self, name: str, reason: str, status: Status) -> None:
        self.result.left_out[name] = reason
        status.stage(name, "left out")
        self.progress.stage(name, "left out")
        self.progress.announce(f"{name}: left out: {reason}")

    def _runs(self, leave_out: Callable[[str, str], None]) -> Iterator[StageRun]:
        """Yield the stages in order, each with its checkpoint, until one is unfinished."""
        current: str | None = None
        for name in self.plan.stages:
            if not self.result.complete:
                return
            with self._explaining(name):
                if reason := self.plan.advised(name, self.result.stages):
                    self.plan.left_out[name] = reason
                    leave_out(name, reason)
                    continue
                self.plan.resolve(name, self.result.stages, current)
                run = self._stage_run(name)
            yield run
            made = self.result.stages[name].checkpoint
            current = self.config.stages[name].model.source if made is None else str(made)

    def _stage_run(self, name: str) -> StageRun:
        made = self.result.makers
        return StageRun(name, self.config, self.store, self.interruption, self.progress, made)

    @contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        """Give the errors of a stage the full keys of its options."""
        try:
            yield
        except Interrupted:
            raise
        except OntogenyError as error:
            raise self.plan.explained(name, error) from error


def _follow(config: RunConfig, result: RunResult) -> None:
    """Do the part of another rank, which torchrun or SLURM has started: nothing but the fits."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the first rank says it all
    chain = _Chain(config, result, Progress(lambda _: None))
    with Interruption() as chain.interruption:
        chain.follow()


def _run_folder(folder: str | Path | None) -> Path:
    if folder is None:
        now = datetime.now().astimezone()
        folder = Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{token_hex(2)}"
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path
