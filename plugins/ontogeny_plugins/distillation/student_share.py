"""How much of the data the student writes itself: more, whenever validation gets worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning as L

from ontogeny.evaluator import find_metric, is_less_better

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ontogeny.evaluator import Metrics

STATE = "student_share"  # key of the training state
KEY = "objective.share_monitor"


class StudentShare(L.Callback):
    """The share λ; it rises by a step where a metric is worse than in the evaluation before.

    Ko et al. 2024, section 3.2 (algorithm 1): the student's own text, of little use while it can
    write nothing, is taken in as soon as the data alone begin to be learned by heart.
    """

    def __init__(
        self, share: float, step: float, metric: str, tolerance: float, tell: Callable[[str], None]
    ) -> None:
        self.share = share
        self.step, self.metric, self.tolerance = step, metric, tolerance
        self.tell = tell
        self.last: float | None = None  # of the metric

    def look(self, results: Mapping[str, Metrics]) -> None:
        """Compare an evaluation with the one before."""
        found = find_metric(KEY, self.metric, results)
        sign = 1 if is_less_better(self.metric, found) else -1
        last, self.last = self.last, found.value
        if last is None or not sign * (found.value - last) > self.tolerance or self.share >= 1:
            return
        self.share = min(1.0, self.share + self.step)
        self.tell(
            f"{self.metric} went from {last:.4g} to {found.value:.4g}; the student now writes "
            f"{self.share:.0%} of the answers"
        )

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add the share, and what it is compared with, to the training state."""
        del trainer, pl_module
        checkpoint[STATE] = [self.share, self.last]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Take them out of the training state."""
        del trainer, pl_module
        self.share, self.last = cast("tuple[float, float | None]", checkpoint[STATE])
