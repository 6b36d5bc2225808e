"""Compression, top to bottom: measure, apply the adapters, settle, measure again, judge, save."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Bundle
from ontogeny.checkpoint import figures_of, save_checkpoint
from ontogeny.data.pipeline import TrainingRows
from ontogeny.decisions import Decisions
from ontogeny.disk_space import folder_size
from ontogeny.errors import ConfigError, UserError
from ontogeny.evaluator import Metric, Metrics, find_metric
from ontogeny.liveness import unread
from ontogeny.models import new_weights
from ontogeny.preflight import require
from ontogeny.seeding import seed_everything
from ontogeny.stage import Stage, StageContext, StageResult
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training import Training, default_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from ontogeny.data.pipeline import PreparedSource
    from ontogeny.evaluation import Evaluation
    from ontogeny.objective import Batch
    from ontogeny_plugins.compression import Compression

# Keys that nothing has read before the adapters are applied: what comes after it will.
READ_LATER = ("evaluator.", "stage.", "adapter.", "logger.", "callbacks.")
Found = dict[str, Metrics]  # metrics by evaluator


class TooMuchLostError(UserError):
    """The compressed model predicts worse than was allowed; it was not saved."""


class CompressionStage(Stage):
    """Leaves a smaller checkpoint, or none where it has lost too much."""

    def __init__(self, config: Compression) -> None:
        self.config = config

    def run(self, context: StageContext) -> StageResult:
        """Compress, judge, save."""
        config = context.config
        if config.model.source is None:
            msg = (
                "model.source is not set; compression needs a checkpoint folder or Hub name (in a "
                "lifecycle, it is that of the stage before)"
            )
            raise ConfigError(msg)
        if not config.adapter:
            msg = (
                "adapter is empty, so there is nothing to do; choose some, such as "
                "'adapter=[wanda]', 'adapter=[trimming]' or 'adapter=[quantization]'"
            )
            raise ConfigError(msg)
        compressing = Compressing(context)
        before, bundle, after = compressing.run_adapters()
        metrics = {**after, **compressing.measured()}
        own = self._judge(before, after)
        lineage = compressing.lineage()
        checkpoint = context.folder / "checkpoint"
        own["parameters"] = Metric(bundle.model.num_parameters(), "parameters")
        metrics["compression"] = own
        named = {f"Measured: {name}": found for name, found in metrics.items()}
        save_checkpoint(bundle, checkpoint, {**lineage, "figures": figures_of(named)})
        own["size"] = Metric(folder_size(checkpoint) / 1e6, "MB", less_is_better=True)
        return StageResult(checkpoint, metrics)

    def _judge(self, before: Found, after: Found) -> Metrics:
        """Return what was, and how it has risen; raise where the monitored rises too much."""
        if not after and self.config.budget is None:
            return {}
        monitor = self.config.monitor
        old, new = (find_metric("stage.monitor", monitor, found) for found in (before, after))
        rise = new.value / old.value - 1
        budget, owner = self.config.budget, monitor.partition("/")[0]
        if budget is not None and not rise <= budget:  # also where it is no number
            msg = (
                f"{monitor} rises from {old.value:.4g} to {new.value:.4g} ({rise:+.2%})"
                f", beyond stage.budget={budget:g} ({budget:.2%}), so nothing is saved: compress "
                f"less, or raise the budget"
            )
            raise TooMuchLostError(msg)
        return {
            name: each
            for metric, old in before[owner].items()
            if metric in after[owner]
            for name, each in _compared(metric, old, after[owner][metric]).items()
        }


def _compared(name: str, old: Metric, new: Metric) -> Metrics:
    """Return what a metric was before, and by how much of that it has risen."""
    found = {f"{name}_before": old}
    if old.value:
        rise = new.value / old.value - 1
        found[f"{name}_rise"] = Metric(rise, "1", less_is_better=old.less_is_better)
    return found


class Compressing(Training):
    """What a training run does around its fit, without the fit."""

    def __init__(self, context: StageContext) -> None:
        tokenizer = named_tokenizer(context.config)
        assert tokenizer is not None  # noqa: S101  there is a source
        super().__init__(context, tokenizer, compares=False)
        self.sources: list[PreparedSource] = []
        self.rows: TrainingRows
        self.device = torch.device(default_device(self.config.trainer.accelerator))

    def run_adapters(self) -> tuple[Found, Bundle, Found]:
        """Return what was measured before, the settled model, and what is measured after."""
        self.look_at_the_data()
        self.sources = self._prepare_data()
        self.rows = TrainingRows(self.sources, self.objective, self.config.data, self.config.seed)
        precision = Decisions(self.folder).numbers(self.config, self.device.type)
        bundle = self._load()
        self._require_all_weights(bundle)
        self._check_length(bundle)
        cast("nn.Module", bundle.model).to(self.device).eval()
        evaluation = self._evaluation(self.sources, precision)
        evaluation.begin(self._companions(self.device))
        evaluation.check(bundle)
        before = evaluation.run(bundle)
        bundle = self._settled(self._applied(bundle))
        return before, bundle, self._after(evaluation, bundle)

    def measured(self) -> Found:
        """Return what the adapters themselves have measured."""
        found = {name: adapter.metrics() for name, adapter in self.adapters.items()}
        return {name: metrics for name, metrics in found.items() if metrics}

    def lineage(self) -> dict[str, object]:
        """Return what goes into the checkpoint's lineage."""
        return self._lineage(self.sources, self.rows.mixture, steps=0, rows=len(self.rows))

    def _applied(self, bundle: Bundle) -> Bundle:
        for name, adapter in self.adapters.items():
            seed_everything(self.config.seed, "adapter", name)
            bundle = adapter.apply(bundle)
        cast("nn.Module", bundle.model).to(self.device)
        for name, adapter in self.adapters.items():
            self.context.announce(f"applying {name}")
            seed_everything(self.config.seed, "initialise", name)
            adapter.initialise(bundle, self._batches())
        if self.config.preflight:
            self._prove(bundle)
        return bundle

    def _settled(self, bundle: Bundle) -> Bundle:
        for adapter in reversed(self.adapters.values()):
            bundle = adapter.settle(bundle)
        return bundle

    def _after(self, evaluation: Evaluation, bundle: Bundle) -> Found:
        cast("nn.Module", bundle.model).eval()
        return evaluation.run(bundle)

    def _batches(self) -> Iterator[Batch]:
        """Yield the batches of one pass over the data, on the device."""
        size = self.config.data.batch_size
        for first in range(0, len(self.rows), size):
            positions = range(first, min(first + size, len(self.rows)))
            batch = self.objective.collate([self.rows[position] for position in positions])
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _prove(self, bundle: Bundle) -> None:
        batch = next(islice(self._batches(), 1))
        proofs = [each for own in self.adapters.values() for each in own.proofs(bundle, batch)]
        if proofs:
            self._show(proofs)
            require(proofs)
        keys = [key for key in self.context.overrides if not f"{key}.".startswith(READ_LATER)]
        if dead := unread(self.config, keys):
            msg = (
                f"nothing reads {', '.join(dead)} in a compression, which trains nothing; leave it "
                f"out, or set preflight=off"
            )
            raise ConfigError(msg)

    def _require_all_weights(self, bundle: Bundle) -> None:
        if new := sorted(new_weights(cast("nn.Module", bundle.model))):
            msg = (
                f"model.source is {self.config.model.source!r}, which lacks {len(new)} weights of "
                f"this head, such as {new[0]}: they would be random; choose the head that it has"
            )
            raise ConfigError(msg)
