"""What a run leaves in its folder: links to finished stages, metrics.json and status.json."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.errors import OntogenyError
from ontogeny.folders import write_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRAINING_STATES = "training_states"  # in the folder of a stage while it is unfinished


class Status:
    """`status.json`: state, exit reason, times, versions and command line of a run."""

    def __init__(
        self,
        folder: Path,
        versions: Mapping[str, str],
        command: Mapping[str, object],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = folder / "status.json"
        self._changed = changed
        self._content: dict[str, object] = {
            "state": "running",
            "command": sys.argv,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _now(),
            "versions": dict(versions),
            "run": dict(command),
            "stages": {},
        }
        self._write()

    def stage(self, name: str, state: str) -> None:
        """Note that a stage is running, cached, finished or unfinished."""
        self._content["stages"] = {**self._stages(), name: state}
        self._write()

    def refresh(self) -> None:
        """Let whoever shows the run look again: there is more in its folder."""
        self._changed()

    def finish(self, *, complete: bool, pruned: str | None = None) -> None:
        """Note that the run ended by itself; `unfinished` when its time was up, `pruned` why."""
        if pruned is not None:
            self._content["reason"] = pruned
        state = "finished" if complete else "unfinished"
        self._end(state if pruned is None else "pruned", 0, None)

    def fail(self, error: BaseException) -> None:
        """Note why the run ended."""
        code = error.exit_code if isinstance(error, OntogenyError) else 1
        state = "interrupted" if code > 128 else "failed"
        stages = self._stages()
        self._content["stages"] = {
            name: state if was == "running" else was for name, was in stages.items()
        }
        self._end(state, code, error)

    def _stages(self) -> dict[str, str]:
        stages = self._content["stages"]
        return stages if isinstance(stages, dict) else {}

    def _end(self, state: str, code: int, error: BaseException | None) -> None:
        self._content |= {"state": state, "exit_code": code, "ended": _now()}
        if error is not None:
            self._content["reason"] = str(error) or type(error).__name__
            self._content["trace"] = traceback.format_exception(error)
        self._write()

    def _write(self) -> None:
        write_text(self._file, json.dumps(self._content, indent=2) + "\n")
        self._changed()


def link_stage(run: Path, name: str, target: Path, *, copied: bool = False) -> Path:
    """Point `<run>/stages/<name>` to the folder of a stage, in place of an older link.

    With `copied` it becomes a folder of its own, which lives when the store is gone.
    """
    link = run / "stages" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    if copied:
        with write_folder(link, replace=True) as copy:
            shutil.copytree(target, copy, dirs_exist_ok=True)
    else:
        link.symlink_to(target.resolve())
    return link


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
