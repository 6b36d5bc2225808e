"""One stage of a run: found in the store, or computed under a lock and put there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, cast

from ontogeny.budget import Budget
from ontogeny.checkpoint import LINEAGE
from ontogeny.evaluation import write_metrics
from ontogeny.evaluator import Metric
from ontogeny.folders import write_text
from ontogeny.keys import stage_key
from ontogeny.kinds import UNKNOWN, given_kinds, kinds_of_folder
from ontogeny.lineage import begin, command_of, complete
from ontogeny.liveness import track
from ontogeny.plugins import registry
from ontogeny.ranks import FitIsOver
from ontogeny.run_folder import TRAINING_STATES, Status, link_stage
from ontogeny.stage import AFTER, Advice, Stage, StageContext, StageResult, read_samples
from ontogeny.store import POLL_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from ontogeny.configuration import RunConfig
    from ontogeny.evaluator import Metrics
    from ontogeny.interruption import Interruption
    from ontogeny.progress import Progress
    from ontogeny.store import Store


class StageRun:
    """Runs one stage, or finds that it was run before."""

    def __init__(
        self,
        name: str,
        run: RunConfig,
        store: Store,
        interruption: Interruption,
        progress: Progress,
        made: Mapping[str, str],
    ) -> None:
        self.name = name
        self.config = run.stages[name]
        self.keys = _own_keys(run.prefix(name), run.overrides)
        self.links = run.store.link
        self.watch: Callable[[int, dict[str, Metrics]], bool] = lambda *_: False
        self.store = store
        self.interruption = interruption
        self.progress = progress
        self.announce = progress.announce
        self.command, self.prefix, self.made = command_of(run), run.prefix(name), made

    def run(self, folder: Path, status: Status) -> StageResult:
        """Return the stage's result and link its folder into the run's folder."""
        self._tell(status, "running")
        key = stage_key(self.config, registry(), self.store)
        hooks = registry().manager.hook
        with self.store.lock("stages", key, lambda: self._say_waiting(key)) as lock:
            found = self.store.get("stages", key, verify=True)
            if found is not None:
                self.announce(f"{self.name}: finished before, nothing to train ({found})")
                result, state = _read_result(found), "cached"
            else:
                context = self._context(key)
                link_stage(folder, self.name, context.folder)
                status.refresh()
                hooks.ontogeny_stage_started(stage=self.name, context=context)
                result, found = self._compute(context), context.folder
                state = "finished" if result.complete else "unfinished"
                if result.complete:
                    lock.require()
                    found = self._publish(key, context.folder)
                    result.checkpoint = found / "checkpoint" if result.checkpoint else None
        link_stage(folder, self.name, found, copied=result.complete and not self.links)
        self._tell(status, state)
        hooks.ontogeny_stage_finished(stage=self.name, result=result)
        return result

    def follow(self) -> StageResult:
        """Take part in the stage's fit, if it has one, and wait for the first rank's result."""
        from ontogeny.training_stage import TrainingStage  # noqa: PLC0415  imports lightning

        key = stage_key(self.config, registry(), self.store)
        stage = registry().build(self.config.stage)
        if self.store.get("stages", key) is None and isinstance(stage, TrainingStage):
            self.config.preflight = False  # the first rank has its proofs
            try:
                stage.run(self._context(key))
            except FitIsOver as over:
                if not over.complete:
                    return StageResult(complete=False)
        while (found := self.store.get("stages", key)) is None:
            time.sleep(POLL_SECONDS)
        return _read_result(found)

    def _compute(self, context: StageContext) -> StageResult:
        stage = cast("Stage", registry().build(self.config.stage))
        lineage = json.dumps(context.lineage, indent=2, default=str) + "\n"
        write_text(context.folder / LINEAGE, lineage)
        with Budget(context.folder):
            result = stage.run(context)
        if result.checkpoint is not None:
            complete(result.checkpoint, context.lineage, result.metrics, result.steps)
        write_metrics(context.folder / "metrics.json", {self.name: result.metrics})
        facts = {
            "steps": result.steps,
            "checkpoint": result.checkpoint is not None,
            "advice": None if result.advice is None else asdict(result.advice),
        }
        write_text(context.folder / "result.json", json.dumps(facts) + "\n")
        return result

    def _work(self, key: str) -> Path:
        """Return the folder of unfinished work, with its training states back in their place."""
        folder = self.store.work("stages", key)
        aside = _states_aside(folder)
        if aside.exists():
            aside.rename(folder / TRAINING_STATES)
        return folder

    def _publish(self, key: str, folder: Path) -> Path:
        """Put the finished stage into the store; only then are its training states deleted.

        Being killed while a large folder is digested and synced must not cost the training.
        """
        states, aside = folder / TRAINING_STATES, _states_aside(folder)
        if states.exists():
            states.rename(aside)
        entry = self.store.publish("stages", key, folder)
        shutil.rmtree(aside, ignore_errors=True)
        return entry

    def _context(self, key: str) -> StageContext:
        lineage = begin(
            self.name,
            self.config,
            key,
            registry(),
            self.store,
            command=self.command,
            prefix=self.prefix,
            made=self.made,
            kind=self._kind(),
        )
        for item in fields(self.config):
            value = getattr(self.config, item.name)
            for part in value.values() if isinstance(value, dict) else [value]:
                track(part)
        return StageContext(
            name=self.name,
            config=self.config,
            registry=registry(),
            store=self.store,
            folder=self._work(key),
            key=key,
            lineage=lineage,
            interruption=self.interruption,
            announce=lambda line: self.announce(f"{self.name}: {line}"),
            overrides=self.keys,
            watch=self.watch,
            steps=self.progress.steps,
        )

    def _kind(self) -> str | None:
        """Return the kind of checkpoint that the stage leaves, where that is known."""
        source = self.config.model.source
        taken = UNKNOWN if source is None else kinds_of_folder(source, registry())
        kinds = given_kinds(self.config, registry(), taken)
        return min(kinds) if kinds is not None and len(kinds) == 1 else None

    def _tell(self, status: Status, state: str) -> None:
        self.progress.stage(self.name, state)
        status.stage(self.name, state)

    def _say_waiting(self, key: str) -> None:
        who = self.store.holder("stages", key)
        other = f"another process ({who})" if who else "another process"
        self.announce(f"{self.name}: {other} computes this stage; waiting for it")


def _states_aside(work: Path) -> Path:
    return work.with_name(f"{work.name}.{TRAINING_STATES}")


def _own_keys(prefix: str, overrides: Sequence[str]) -> list[str]:
    """Return the keys of this stage that the user set, without the prefix of a lifecycle."""
    keys = [item.lstrip("+").partition("=")[0] for item in overrides if not item.startswith("~")]
    keys = [key for key in keys if key.startswith(prefix)]
    return [key.removeprefix(prefix) for key in keys if "@" not in key and "/" not in key]


def _read_result(folder: Path) -> StageResult:
    facts = json.loads((folder / "result.json").read_text())
    stages = json.loads((folder / "metrics.json").read_text())
    metrics = {
        evaluator: {name: Metric(**value) for name, value in values.items()}
        for evaluators in stages.values()
        for evaluator, values in evaluators.items()
    }
    checkpoint = folder / "checkpoint" if facts["checkpoint"] else None
    advice = Advice(**facts["advice"]) if facts.get("advice") else None
    shown, steps = read_samples(folder / AFTER), int(facts["steps"])
    return StageResult(checkpoint, metrics, shown, steps, advice=advice)
