"""`budget.json`: the time and the memory that a stage has taken, over all its attempts."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from ontogeny.errors import OntogenyError
from ontogeny.folders import write_text

if TYPE_CHECKING:
    from types import TracebackType

FILE = "budget.json"
_CLEAR_PEAK = Path("/proc/self/clear_refs")  # Linux: "5" makes the peak begin anew
_STATUS = Path("/proc/self/status")


class Budget:
    """Measures the block that it surrounds, and adds it to what earlier attempts have taken.

    Seconds are wall time; an attempt that was killed could write none. Memory is the most that this
    process, and on a GPU its allocator, had at once, in bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE

    def __enter__(self) -> Self:
        """Begin to measure."""
        self._began = time.monotonic()
        with suppress(OSError):
            _CLEAR_PEAK.write_text("5")
        if cuda := _cuda():
            cuda.reset_peak_memory_stats()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what was measured, also where the block has failed."""
        before = read_budget(self._file.parent)
        cuda = _cuda()
        now = {
            "seconds": before.get("seconds", 0) + time.monotonic() - self._began,
            "attempts": before.get("attempts", 0) + 1,
            "memory": max(before.get("memory", 0), _peak_memory()),
            "device_memory": max(
                before.get("device_memory", 0), cuda.max_memory_allocated() if cuda else 0
            ),
        }
        with suppress(OSError, OntogenyError):  # a full disk is told of by what filled it
            write_text(self._file, json.dumps(now) + "\n")


def read_budget(folder: Path) -> dict[str, float]:
    """Return what a stage has taken so far; nothing where that was not measured."""
    file = folder / FILE
    return cast("dict[str, float]", json.loads(file.read_text())) if file.exists() else {}


def _peak_memory() -> int:
    """Return the most memory this process had since the peak was cleared, in bytes."""
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cuda() -> Any:
    """Return torch.cuda where it is imported and in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda
