"""Jobs of a sweep that are behind end early: the median rule, through files in the sweep's folder.

It asks nothing of the launcher or the sweeper: every job writes what it measures in its loop beside
its other files, and reads what the others wrote.
"""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, cast

from ontogeny.errors import ConfigError
from ontogeny.evaluator import less_is_better
from ontogeny.folders import write_text
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ontogeny.evaluator import Metrics
    from ontogeny.options import Sweep

FILE = "intermediate.json"  # {"<stage>": {"<step>": value}}


class Pruning:
    """Decides, at every evaluation in the loop, whether this job goes on."""

    def __init__(self, folder: Path, options: Sweep) -> None:
        self.folder = folder
        self.metric = options.prune
        self.after = options.prune_after
        self.reason: str | None = None  # why the job was ended
        self._values: dict[str, dict[str, float]] = {}

    def look(self, stage: str, step: int, results: dict[str, Metrics]) -> bool:
        """Note what was measured after a step; say whether the job is to end there.

        It is, where its best value so far is worse than the median of the other jobs' values at
        this step of the stage (Golovin et al., 2017: the median stopping rule).
        """
        if self.metric is None or step == 0:
            return False
        value = self._value(results)
        own = self._values.setdefault(stage, {})
        own[str(step)] = value
        write_text(self.folder / FILE, json.dumps(self._values) + "\n")
        others = list(self._others(stage, str(step)))
        if len(others) < self.after:
            return False
        sign = -1 if less_is_better(self.metric) else 1
        best, middle = max(own.values(), key=lambda each: sign * each), median(others)
        if sign * best >= sign * middle:
            return False
        self.reason = (
            f"{self.metric} was {best:.4g} at best up to step {step}, behind the median of "
            f"{len(others)} other jobs, {middle:.4g} (sweep.prune)"
        )
        return True

    def _value(self, results: dict[str, Metrics]) -> float:
        known = {
            f"{evaluator}/{name}": metric.value
            for evaluator, metrics in results.items()
            for name, metric in metrics.items()
        }
        name = cast("str", self.metric)
        if name not in known:
            raise ConfigError(
                f"sweep.prune is {name!r}, which no evaluator measures{suggestion(name, known)}; "
                f"known: {', '.join(known) or 'none'}"
            )
        return known[name]

    def _others(self, stage: str, step: str) -> Iterator[float]:
        """Yield what other jobs of the sweep have measured after the same step."""
        for file in self.folder.parent.glob(f"*/{FILE}"):
            if file.parent != self.folder:
                values = json.loads(file.read_text()).get(stage, {})
                if step in values:
                    yield values[step]
