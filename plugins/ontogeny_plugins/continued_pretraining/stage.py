"""Continued pre-training: from a checkpoint, on domain text, watching what is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ontogeny.continuation import Continuation
from ontogeny.errors import ConfigError
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.stage import Sample, StageContext
    from ontogeny_plugins.continued_pretraining import ContinuedPretraining


class ContinuedPretrainingStage(TrainingStage):
    """Goes on with the objective of the pre-training; reports gains and forgetting."""

    compares: ClassVar[bool] = True

    def __init__(self, config: ContinuedPretraining) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the checkpoint; raise ConfigError where there is none."""
        if context.config.model.source is None:
            msg = (
                "model.source is not set; continued_pretraining goes on from a checkpoint folder "
                "or Hub name (stage=pretraining begins with random weights)"
            )
            raise ConfigError(msg)
        tokenizer = named_tokenizer(context.config)
        assert tokenizer is not None  # noqa: S101  there is a source
        return tokenizer

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model continue the prompts of `stage.prompts`."""
        options, seed = self.config, context.config.seed
        how = Continuation(options.sample_tokens, options.temperature, seed)
        return how.samples(bundle, options.prompts)
