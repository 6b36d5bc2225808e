"""Every hook of Ontogeny, in the order in which they are called: the plugin author's manual.

A plugin is any object (usually a module) whose functions carry `@ontogeny.hookimpl` and have
these names. It is found through the entry-point group `ontogeny`, or named in the environment
variable `ONTOGENY_PLUGINS`. A hookimpl takes the arguments it wants, without default values.
"""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ontogeny.component import Component
    from ontogeny.lifecycle import RunResult
    from ontogeny.report.section import Section
    from ontogeny.stage import StageContext, StageResult

hookspec = pluggy.HookspecMarker("ontogeny")


@hookspec
def ontogeny_stages() -> Sequence[Component]:
    """Return the stages this plugin offers. Called once at start-up: import nothing heavy."""


@hookspec
def ontogeny_objectives() -> Sequence[Component]:
    """Return the objectives this plugin offers. Called once at start-up."""


@hookspec
def ontogeny_heads() -> Sequence[Component]:
    """Return the heads this plugin offers. Called once at start-up."""


@hookspec
def ontogeny_adapters() -> Sequence[Component]:
    """Return the adapters this plugin offers. Called once at start-up."""


@hookspec
def ontogeny_evaluators() -> Sequence[Component]:
    """Return the evaluators this plugin offers. Called once at start-up."""


@hookspec
def ontogeny_rewards() -> Sequence[Component]:
    """Return the rewards this plugin offers: what scores a model's answers. Called at start-up."""


@hookspec
def ontogeny_exporters() -> Sequence[Component]:
    """Return the formats that this plugin writes checkpoints in. Called once at start-up."""


@hookspec
def ontogeny_config_paths() -> Sequence[str]:
    """Return folders with more config files, as `pkg://package.folder`. Called at start-up.

    The folder's package needs an `__init__.py`; groups are its sub-folders, options their files.
    """


@hookspec
def ontogeny_stage_started(stage: str, context: StageContext) -> None:
    """Observe that the stage called `stage` is about to run (not called for a cached one)."""


@hookspec
def ontogeny_stage_finished(stage: str, result: StageResult) -> None:
    """Observe that the stage called `stage` has a result, computed now or found in the store."""


@hookspec
def ontogeny_run_finished(result: RunResult) -> None:
    """Observe that the whole run has ended well."""


@hookspec
def ontogeny_report_sections(stage: str, folder: Path) -> Sequence[Section]:
    """Return what to add to the page of a run under the stage called `stage`.

    `folder` is that of the stage: `checkpoint/`, `logs/`, `metrics.json`, `lineage.json` and what
    its components have written. Called whenever the page is written, while the stage runs and after
    it has failed, too: most of it may be missing. Read only, and be quick.
    """
