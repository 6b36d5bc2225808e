"""What all stages that train have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ontogeny.checkpoint import save_checkpoint
from ontogeny.data.pipeline import sources_of
from ontogeny.folders import write_text
from ontogeny.stage import Sample, Stage, StageContext, StageResult
from ontogeny.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.configuration import StageConfig


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
        """Return what the finished model writes, to show at the end of the run."""
        del bundle, context
        return []

    def run(self, context: StageContext) -> StageResult:
        """Train, save the checkpoint, measure it."""
        training = Training(context, self.tokenizer(context), compares=self.compares)
        trained = training.run()
        checkpoint = context.folder / "checkpoint"
        save_checkpoint(trained.bundle, checkpoint, trained.lineage)
        metrics = trained.evaluation.run(trained.bundle)
        if changes := trained.comparison.metrics(metrics):
            metrics["forgetting"] = changes
        measured = {name: adapter.metrics() for name, adapter in training.adapters.items()}
        metrics |= {name: found for name, found in measured.items() if found}
        trained.bundle.model.eval()
        samples = [*training.objective.samples(), *self.samples(trained.bundle, context)]
        shown = [
            {"prompt": sample.prompt, "text": sample.text, **sample.columns} for sample in samples
        ]
        write_text(context.folder / "samples.json", json.dumps(shown, indent=2) + "\n")
        return StageResult(checkpoint, metrics, samples, trained.steps, trained.complete)
