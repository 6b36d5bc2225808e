"""The Python API: compose a config, run it. The command line is a thin layer above."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ontogeny import _hydra
from ontogeny.configuration import RunConfig, typed
from ontogeny.environment import prepare_environment
from ontogeny.plugins import registry

if TYPE_CHECKING:
    from pathlib import Path

    from ontogeny.lifecycle import RunResult
    from ontogeny.progress import Progress

prepare_environment()
_log = logging.getLogger(__name__)


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose a run from command-line overrides, such as `["stage=pretraining", "seed=1"]`.

    Raises ConfigError in one line for what the command line would refuse, too.
    """
    registry().check()
    return typed(_hydra.compose_config(overrides), list(overrides))


def run(
    config: RunConfig,
    folder: str | Path | None = None,
    announce: Callable[[str], None] = _log.info,
    progress: Progress | None = None,
) -> RunResult:
    """Run the stages of a config in order; finished ones are taken from the store.

    `folder` is where links, metrics and status go (default: a new one under `outputs/`);
    `announce` gets the lines that the command line shows; `progress` shows them in its own way.
    """
    from ontogeny.lifecycle import run_stages  # noqa: PLC0415  imports torch
    from ontogeny.progress import Progress  # noqa: PLC0415

    return run_stages(config, folder, progress or Progress(announce))
