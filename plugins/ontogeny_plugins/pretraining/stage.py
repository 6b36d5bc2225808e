"""Pre-training: tokenizer, model and text become a base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.continuation import Continuation
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage
from ontogeny_plugins.pretraining.tokenizer import trained_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.stage import Sample, StageContext
    from ontogeny_plugins.pretraining import Pretraining


class PretrainingStage(TrainingStage):
    """Trains on raw text, with a tokenizer of its own when none is given."""

    def __init__(self, config: Pretraining) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the named tokenizer, or one trained on the data."""
        return named_tokenizer(context.config) or trained_tokenizer(context)

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model continue the prompts of `stage.prompts`."""
        options, seed = self.config, context.config.seed
        how = Continuation(options.sample_tokens, options.temperature, seed)
        return how.samples(bundle, options.prompts)
