"""What is left of a multirun: a table, the best job, the frontier, and a page to look at."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import yaml

from ontogeny.errors import ConfigError
from ontogeny.evaluator import less_is_better
from ontogeny.folders import write_text
from ontogeny.leftovers import is_running
from ontogeny.options import Sweep
from ontogeny.spelling import suggestion

BEST = "best"  # a link to the best job's folder
FACTS = "sweep.json"
PAGE = "sweep.html"
ENOUGH = ("finished", "pruned", "unfinished")  # states of jobs that have been measured
Flat = dict[str, float]  # by stage/evaluator/metric


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as its folder tells."""

    folder: Path
    status: Mapping[str, object]
    metrics: Flat
    overrides: dict[str, str]  # by key
    directions: Mapping[str, bool] = field(default_factory=dict)  # whether less is better

    @property
    def name(self) -> str:
        """Its number."""
        return self.folder.name

    @cached_property
    def state(self) -> str:
        """finished, failed, pruned …; killed, where its process ended without a word."""
        state = str(self.status.get("state", "not run"))
        is_here = self.status.get("host") == socket.gethostname()
        gone = is_here and not is_running(int(str(self.status.get("pid", 0))))
        return "killed" if state == "running" and gone else state

    @property
    def reason(self) -> str:
        """Why it failed; empty where it did not."""
        return str(self.status.get("reason", ""))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint of its last stage that has left one."""
        stages = cast("Mapping[str, object]", self.status.get("stages") or {})
        found = [self.folder / "stages" / name / "checkpoint" for name in stages]
        return next((path for path in reversed(found) if path.exists()), None)


class Results:
    """The jobs of a sweep, with what decides between them."""

    def __init__(self, folder: Path, options: Sweep) -> None:
        self.folder = folder
        self.options = options
        self.jobs = read_jobs(folder)

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that decide: those that were asked for, else what can be compared best."""
        return self.options.metrics or [
            name for job in self.jobs[:1] if (name := default_metric(job.metrics)) is not None
        ]

    @property
    def missing(self) -> str | None:
        """A metric that was asked for and that no job has, in words; None where all are there."""
        measured = [job for job in self.jobs if job.metrics]
        for name in self.options.metrics:
            if measured and all(self.value(job, name) is None for job in measured):
                return unknown_metric(name, measured[0].metrics)
        return None

    @property
    def swept(self) -> list[str]:
        """The keys whose values differ between jobs."""
        keys = dict.fromkeys(key for job in self.jobs for key in job.overrides)
        return [key for key in keys if len({job.overrides.get(key) for job in self.jobs}) > 1]

    def value(self, job: Job, metric: str) -> float | None:
        """Return the value of a metric in a job, of the last stage that has it."""
        found = find_metric(job.metrics, metric)
        return None if found is None else job.metrics[found]

    def sign(self, metric: str) -> int:
        """Return 1 where more is better, else -1."""
        if self.options.mode != "auto" and len(self.metrics) == 1:
            return -1 if self.options.mode == "min" else 1
        said = (
            job.directions.get(found)
            for job in self.jobs
            if (found := find_metric(job.metrics, metric)) is not None
        )
        known = next((each for each in said if each is not None), None)
        return -1 if (less_is_better(metric) if known is None else known) else 1

    @cached_property
    def ranked(self) -> list[Job]:
        """The finished jobs, the best in the first metric before the others."""
        if not self.metrics:
            return []
        first = self.metrics[0]
        done = [(self.value(job, first), job) for job in self.jobs if job.state == "finished"]
        known = [(value * self.sign(first), job) for value, job in done if value is not None]
        return [job for _, job in sorted(known, key=lambda pair: -pair[0])]

    @property
    def best(self) -> Job | None:
        """The job that is best in the first metric."""
        return self.ranked[0] if self.ranked else None

    def frontier(self, metrics: list[str]) -> list[Job]:
        """Return the finished jobs that no other beats in all of these metrics."""
        points = {job.name: (job, self._goodness(job, metrics)) for job in self.ranked}
        known = {name: (job, own) for name, (job, own) in points.items() if own is not None}
        return [
            job
            for job, own in known.values()
            if not any(_beats(other, own) for _, other in known.values())
        ]

    def _goodness(self, job: Job, metrics: list[str]) -> list[float] | None:
        """Return the values of metrics so that more is better; None where one is missing."""
        values = [self.value(job, metric) for metric in metrics]
        signs = map(self.sign, metrics)
        pairs = [(value, sign) for value, sign in zip(values, signs, strict=True)]
        found = [value * sign for value, sign in pairs if value is not None]
        return found if len(found) == len(metrics) else None


def _beats(other: list[float], own: list[float]) -> bool:
    return other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))


def finish_sweep(folder: str, options: Sweep) -> str:
    """Write sweep.json, sweep.html and the link to the best job; return the table."""
    from ontogeny.sweep_page import page  # noqa: PLC0415  where there is a sweep alone

    results = Results(Path(folder), options)
    if results.jobs:
        write_text(results.folder / FACTS, json.dumps(_facts(results), indent=2) + "\n")
        write_text(results.folder / PAGE, page(results))
        _link_best(results)
    return sweep_table(results)


def sweep_table(results: Results) -> str:
    """Return a line per job: state, the metrics that decide, overrides, reason; then the best."""
    names = [_short(metric) for metric in results.metrics]
    if len(set(names)) < len(names):
        names = results.metrics
    lines = [f"sweep {results.folder}:"]
    for job in results.jobs:
        values = [results.value(job, metric) for metric in results.metrics]
        shown = (
            f"{name} {value:.4g}"
            for name, value in zip(names, values, strict=True)
            if value is not None
        )
        keys = results.swept or list(job.overrides)
        swept = shlex.join(f"{key}={job.overrides[key]}" for key in keys if key in job.overrides)
        text = f"  {job.name:>4}  {job.state:<12}{'  '.join(shown):<26}  {swept}"
        lines.append(f"{text}  {job.reason}".rstrip())
    best = results.best
    if best is not None:
        lines.append(f"best: job {best.name}, {_values(results, best)}")
        if best.checkpoint is not None:
            lines.append(f"best checkpoint: {best.checkpoint}")
    if len(results.metrics) > 1 and results.ranked:
        front = ", ".join(job.name for job in results.frontier(results.metrics))
        lines.append(f"no other job is better in everything than: {front}")
    if results.jobs:
        lines.append(f"page: {results.folder / PAGE}")
    return "\n".join(lines)


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a sweep folder, by number."""
    jobs = [path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()]
    return [_read_job(path) for path in sorted(jobs, key=_number) if not path.name.startswith(".")]


def find_metric(metrics: Mapping[str, object], name: str) -> str | None:
    """Return the full name of a metric: itself, or of the last stage that has evaluator/metric."""
    if name in metrics:
        return name
    return next((full for full in reversed(list(metrics)) if full.endswith(f"/{name}")), None)


def default_metric(metrics: Mapping[str, object]) -> str | None:
    """Return evaluator/metric of bits per byte in the last stage that has it, else of the first."""
    for full in reversed(list(metrics)):
        if full.endswith("/bits_per_byte"):
            return full.partition("/")[2]
    stages = [full.partition("/")[0] for full in metrics]
    last = next((full for full in metrics if full.startswith(f"{stages[-1]}/")), None)
    return None if last is None else last.partition("/")[2]


def unknown_metric(name: str, known: Mapping[str, object]) -> str:
    """Say that nothing measures a metric."""
    listed = ", ".join(known) or "none"
    near = suggestion(name, [*known, *(full.partition("/")[2] for full in known)])
    return f"sweep.metric is {name!r}, which no stage measures{near}; known: {listed}"


def returned_values(metrics: Flat, options: Sweep) -> float | tuple[float, ...] | None:
    """Return what a sweeper optimises; None where nothing was measured.

    Raises ConfigError for a metric that was asked for and not measured.
    """
    names = options.metrics
    if not names:
        default = default_metric(metrics) if metrics else None
        found = None if default is None else find_metric(metrics, default)
        return None if found is None else metrics[found]
    values = []
    for name in names:
        found = find_metric(metrics, name)
        if found is None:
            raise ConfigError(unknown_metric(name, metrics))
        values.append(metrics[found])
    return values[0] if len(values) == 1 else tuple(values)


def _number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() else 10**9, path.name)


def _read_job(folder: Path) -> Job:
    entries = {
        f"{stage}/{evaluator}/{name}": cast("Mapping[str, object]", value)
        for stage, evaluators in _read(folder / "metrics.json").items()
        for evaluator, values in cast("Mapping[str, Mapping[str, object]]", evaluators).items()
        for name, value in values.items()
    }
    return Job(
        folder,
        _read(folder / "status.json"),
        {name: float(str(entry["value"])) for name, entry in entries.items()},
        _overrides(folder),
        {
            name: bool(entry["less_is_better"])
            for name, entry in entries.items()
            if entry.get("less_is_better") is not None
        },
    )


def _overrides(job: Path) -> dict[str, str]:
    file = job / ".hydra" / "overrides.yaml"
    listed = yaml.safe_load(file.read_text()) if file.exists() else []
    pairs = (str(item).partition("=") for item in listed or [])
    return {key.lstrip("+"): value for key, _, value in pairs}


def _read(file: Path) -> dict[str, object]:
    content = json.loads(file.read_text()) if file.exists() else {}
    return content if isinstance(content, dict) else {}


def _short(metric: str) -> str:
    """Return the name of a metric without stage and evaluator."""
    parts = metric.split("/")
    return "/".join(parts[2:] if len(parts) > 2 else parts[-1:])


def _values(results: Results, job: Job) -> str:
    values = ((metric, results.value(job, metric)) for metric in results.metrics)
    return ", ".join(f"{metric} {value:.4g}" for metric, value in values if value is not None)


def _facts(results: Results) -> dict[str, object]:
    """Return everything of a sweep that a program may want to read."""
    best = results.best
    return {
        "metrics": results.metrics,
        "best": None if best is None else best.name,
        "checkpoint": None if best is None or not best.checkpoint else str(best.checkpoint),
        "jobs": [
            {
                "job": job.name,
                "state": job.state,
                "overrides": job.overrides,
                "values": {metric: results.value(job, metric) for metric in results.metrics},
                "reason": job.reason,
            }
            for job in results.jobs
        ],
    }


def _link_best(results: Results) -> None:
    """Point `best` to the folder of the best job."""
    if results.best is None:
        return
    unfinished = results.folder / f".{BEST}-{os.getpid()}"
    unfinished.symlink_to(results.best.name)
    unfinished.replace(results.folder / BEST)
