"""A run as a person sees it: lines while it works, then samples, metrics and where it all is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from ontogeny._hydra import is_sweep, job_flags
from ontogeny.api import run
from ontogeny.configuration import typed
from ontogeny.evaluator import on_screen
from ontogeny.plugins import registry
from ontogeny.progress import progress_for
from ontogeny.ranks import is_first_rank
from ontogeny.report import REPORT

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ontogeny.evaluator import Metric
    from ontogeny.lifecycle import RunResult

UNLIMITED = 10_000  # columns, to measure how many a table takes


def run_in_terminal(config: DictConfig, overrides: list[str], folder: str) -> RunResult:
    """Run a composed config and print what comes of it; return it."""
    registry().check()
    console = Console(highlight=False, soft_wrap=True)
    composed = typed(config, overrides)
    composed.flags = job_flags()
    # Jobs of a sweep may share the terminal, which has room for one display.
    progress = progress_for(console, display=not is_sweep() and is_first_rank())
    result = run(composed, folder, progress=progress)
    _print_samples(console, result)
    if any(result.metrics.values()):
        _print_whole(console, _metrics_table(result))
    console.print(f"report: {Path(folder) / REPORT}", markup=False)
    for name, stage in result.stages.items():
        if not stage.complete:
            why = result.pruned or "time is up; the same command goes on"
            console.print(f"{name}: ended after {stage.steps} steps: {why}", markup=False)
        if stage.checkpoint:
            console.print(f"{name}: checkpoint {_shown_path(folder, name)}", markup=False)
    console.print(f"run: {Path(folder)}", markup=False)
    return result


def _print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as it is: a narrow terminal breaks lines, but cuts no number off."""
    measured = console.measure(table, options=console.options.update(width=UNLIMITED))
    console.width = max(console.width, measured.maximum)
    console.print(table, soft_wrap=True)


def _shown_path(folder: str, name: str) -> Path:
    return Path(folder) / "stages" / name / "checkpoint"


def _print_samples(console: Console, result: RunResult) -> None:
    for name, stage in result.stages.items():
        for sample in stage.samples:
            console.print(f"{name} writes: ", style="dim", end="", markup=False)
            console.print(sample.prompt, style="bold", end="", markup=False)
            console.print(sample.text, markup=False)
            for fact, value in sample.columns.items():
                console.print(f"  {fact}: {value}", style="dim", markup=False)


def _metrics_table(result: RunResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stage", "evaluator", "metric", "value", "95 % interval", "unit"):
        table.add_column(heading, no_wrap=True, min_width=len(heading))
    for stage, evaluators in result.metrics.items():
        for evaluator, values in evaluators.items():
            shown = on_screen(values)
            for name, metric in shown.items():
                row = (
                    stage,
                    evaluator,
                    name,
                    f"{metric.value:.4g}",
                    _interval(metric),
                    metric.unit,
                )
                table.add_row(*row)
            if more := len(values) - len(shown):
                table.add_row(stage, evaluator, f"and {more} parts, in metrics.json", "", "", "")
    return table


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.4g} to {metric.high:.4g}"
