"""What all stages that train have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from ontogeny.checkpoint import save_checkpoint
from ontogeny.data.pipeline import sources_of, validation_rows_again
from ontogeny.folders import write_text
from ontogeny.stage import AFTER, BEFORE, Sample, Stage, StageContext, StageResult, read_samples
from ontogeny.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.configuration import StageConfig
    from ontogeny.objective import Objective, Row
    from ontogeny.plugins import Registry


class TrainingStage(Stage):
    """A stage that trains a model with an objective and leaves a checkpoint."""

    # Whether what the stage has gained and forgotten is measured and reported.
    compares: ClassVar[bool] = False

    def check(self, config: StageConfig) -> None:
        """Raise ConfigError where there is no data to train on."""
        sources_of(config.data)

    @abstractmethod
    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer that this stage works with."""

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Return what a model writes: asked once before the training, and of the finished one."""
        del bundle, context
        return []

    def run(self, context: StageContext) -> StageResult:
        """Train, save the checkpoint, measure it."""
        before = partial(self._keep_samples, context, BEFORE)
        training = Training(context, self.tokenizer(context), compares=self.compares, before=before)
        trained = training.run()
        checkpoint = context.folder / "checkpoint"
        save_checkpoint(trained.bundle, checkpoint, trained.lineage)
        metrics = trained.evaluation.run(trained.bundle)
        if changes := trained.comparison.metrics(metrics):
            metrics["forgetting"] = changes
        measured = {name: adapter.metrics() for name, adapter in training.adapters.items()}
        metrics |= {name: found for name, found in measured.items() if found}
        own = training.objective.samples()
        samples = self._keep_samples(context, AFTER, trained.bundle, own)
        return StageResult(checkpoint, metrics, samples, trained.steps, trained.complete)

    def measured_rows(
        self, config: StageConfig, registry: Registry
    ) -> Mapping[str, Sequence[Row]] | None:
        """Return the held-out rows."""
        objective = cast("Objective", registry.build(config.objective))
        return validation_rows_again(config.data, objective.columns)

    def _keep_samples(
        self, context: StageContext, name: str, bundle: Bundle, more: Sequence[Sample] = ()
    ) -> list[Sample]:
        """Write down what a model writes as it is now, unless that was done before."""
        file = context.folder / name
        if name == BEFORE and file.exists():
            return read_samples(file)
        training = bundle.model.training
        bundle.model.eval()
        samples = [*more, *self.samples(bundle, context)]
        bundle.model.train(training)
        shown = [sample.as_dict() for sample in samples]
        write_text(file, json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
        return samples
