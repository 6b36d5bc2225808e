"""What a stage forgets: bits per byte of text that the model knew, before against after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import lightning as L

from ontogeny.data.pipeline import sources_of
from ontogeny.errors import ConfigError
from ontogeny.evaluator import Metric, Metrics
from ontogeny.folders import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ontogeny.data.loader import StepSampler
    from ontogeny.data.mixing import Mixture
    from ontogeny.lightning_module import TrainingModule
    from ontogeny.options import Data, Forgetting

GENERAL = ("general", "replay")  # what a source of general text is called by convention
MEASURE = "bits_per_byte"  # comparable between tokenizers, so an expanded one is judged fairly
BITS = "bits/byte"
Results = dict[str, Metrics]  # by evaluator


class Comparison:
    """Bits per byte of each source, before a stage and later."""

    def __init__(self, options: Forgetting, data: Data, file: Path) -> None:
        self.options = options
        self._data = data
        self.names = list(sources_of(data))
        self.general = self._general()
        self._file = file  # the model before is not at hand when a run goes on
        self.before: dict[str, float] = {}
        if file.exists():
            self.before = cast("dict[str, float]", json.loads(file.read_text()))

    def start(self, results: Results) -> None:
        """Keep what was measured before the first step; raise if the budget cannot be watched."""
        self.before = self._values(results)
        if self.options.budget is not None and (reason := self.gap()):
            raise ConfigError(f"forgetting.budget is set, but {reason}")
        write_text(self._file, json.dumps(self.before) + "\n")

    def gap(self) -> str | None:
        """Return why it cannot be told what is forgotten, and what to do; None where it can."""
        if self.general is None:
            return (
                f"no source is the general text that must not be forgotten: name it in "
                f"data.sources.general.path (its weight may be 0), or in forgetting.source; "
                f"sources: {', '.join(self.names)}"
            )
        if self.general in self.before:
            return None
        held_out = f"data.sources.{self.general}.validation"
        if self._data.validation.path is not None and len(self.names) > 1:
            mend = f"data.validation.path is for all sources together, {held_out} for this one"
        else:
            mend = f"choose 'evaluator=[perplexity]', and rows to hold out in {held_out}"
        return f"no evaluator measures {MEASURE} of {self.general} on its own: {mend}"

    def forgotten(self, results: Results) -> float | None:
        """Return the relative rise of general bits per byte; None where it is not measured."""
        now = self._values(results)
        if self.general is None or self.general not in self.before or self.general not in now:
            return None
        return now[self.general] / self.before[self.general] - 1

    def metrics(self, results: Results) -> Metrics:
        """Return values before and after, gains (relative falls), and what was forgotten."""
        found: Metrics = {}
        for name, after in self._values(results).items():
            if name not in self.before:
                continue
            before = self.before[name]
            found[f"{MEASURE}_before/{name}"] = Metric(before, BITS)
            found[f"{MEASURE}_after/{name}"] = Metric(after, BITS)
            if name == self.general:
                found["forgetting"] = Metric(after / before - 1, "1")
            else:
                found[f"gain/{name}"] = Metric(1 - after / before, "1")
        return found

    def _general(self) -> str | None:
        chosen = self.options.source
        if chosen is not None and chosen not in self.names:
            msg = f"forgetting.source is {chosen!r}; expected one of {', '.join(self.names)}"
            raise ConfigError(msg)
        return chosen or next((name for name in GENERAL if name in self.names), None)

    def _values(self, results: Results) -> dict[str, float]:
        """Return bits per byte by source, of the first evaluator that measures it."""
        for metrics in results.values():
            if MEASURE in metrics:
                own = {name: metrics.get(f"{MEASURE}/{name}") for name in self.names}
                if len(self.names) == 1:
                    own = {self.names[0]: metrics[MEASURE]}
                return {name: metric.value for name, metric in own.items() if metric is not None}
        return {}


class ForgettingBudget(L.Callback):
    """Ends the fit, or raises the share of general text, when too much was forgotten.

    What it has decided is in the training state: a run that was cut off decides the same.
    """

    def __init__(
        self,
        comparison: Comparison,
        mixture: Mixture,
        sampler: StepSampler,
        announce: Callable[[str], None],
    ) -> None:
        self.comparison = comparison
        self.options = comparison.options
        self.mixture = mixture
        self.sampler = sampler
        self.announce = announce

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add the changes of the mixture to the training state."""
        del trainer, pl_module
        changes = [[change.position, list(change.weights)] for change in self.mixture.changes]
        checkpoint["mixture_changes"] = changes

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Make the changes of the mixture again."""
        del trainer, pl_module
        for position, weights in mixture_changes(checkpoint):
            self.mixture.change(position, weights)

    def look(self, module: TrainingModule, results: Results) -> None:
        """Act on an evaluation: `module.ended` is set where the stage has to end."""
        forgotten = self.comparison.forgotten(results)
        budget = self.options.budget
        if forgotten is None or budget is None or forgotten <= budget:
            return
        spent = f"general {MEASURE} has risen by {forgotten:.1%}, more than {budget:.1%}"
        if self.options.action == "replay" and (weights := self._more_replay()):
            self.mixture.change(
                module.consumed * self.sampler.rows_per_step, list(weights.values())
            )
            shares = ", ".join(f"{name} {share:.1%}" for name, share in weights.items())
            self.announce(f"forgetting: {spent}; shares of tokens from here: {shares}")
            return
        self.announce(f"forgetting: {spent}; the stage ends at step {module.consumed}")
        module.ended = True

    def _more_replay(self) -> Mapping[str, float]:
        """Return new shares, with more of the general text; none when it is at its limit."""
        shares, general = self.mixture.shares, cast("str", self.comparison.general)
        share = min(shares[general] + self.options.replay_step, self.options.replay_limit)
        if share <= shares[general] + 1e-6:
            return {}
        rest = (1 - share) / (1 - shares[general])
        return {name: share if name == general else old * rest for name, old in shares.items()}


def mixture_changes(state: Mapping[str, object]) -> Sequence[tuple[int, Sequence[float]]]:
    """Return what a training state says of a changed mixture: positions with their weights."""
    return cast("Sequence[tuple[int, Sequence[float]]]", state.get("mixture_changes", ()))


def require_no_workers(options: Forgetting, data: Data) -> None:
    """Raise ConfigError where rows are fetched ahead, but their mixture may change."""
    if options.budget is not None and options.action == "replay" and data.workers:
        msg = (
            f"data.workers is {data.workers}, but forgetting.action=replay changes the mixture on "
            f"the way, and workers fetch rows ahead: set data.workers=0"
        )
        raise ConfigError(msg)
