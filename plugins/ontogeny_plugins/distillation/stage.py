"""The stage: a student, given or cut, a teacher, and an objective that brings them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.continuation import Continuation
from ontogeny.errors import ConfigError
from ontogeny.tokenizers import load_tokenizer, named_tokenizer
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.stage import Sample, StageContext
    from ontogeny_plugins.distillation import DistillationStage


class TeachingStage(TrainingStage):
    """Trains a student; one with random weights takes the teacher's tokenizer."""

    def __init__(self, config: DistillationStage) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the student, else that of the teacher."""
        tokenizer = named_tokenizer(context.config)
        if tokenizer is not None:
            return tokenizer
        source = context.config.teacher.source
        if source is None:
            raise ConfigError(
                "neither model.source nor teacher.source is set: distillation needs a teacher, and "
                "a student with its tokenizer (model=llama_tiny is one with random weights)"
            )
        return load_tokenizer("teacher.source", source)

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the student continue the prompts of `stage.prompts`."""
        options, seed = self.config, context.config.seed
        how = Continuation(options.sample_tokens, options.temperature, seed)
        return how.samples(bundle, options.prompts)
