"""Fine-tuning: from a checkpoint, on labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.errors import ConfigError
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.stage import StageContext
    from ontogeny_plugins.finetuning import Finetuning


class FinetuningStage(TrainingStage):
    """Trains backbone and head; what is learnt is up to the objective and the head."""

    def __init__(self, config: Finetuning) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the named tokenizer, else the checkpoint's."""
        tokenizer = named_tokenizer(context.config)
        if tokenizer is None:
            msg = (
                "model.source is not set; finetuning goes on from a checkpoint folder or Hub name, "
                "or from random weights (model=bert_tiny) with a tokenizer.source"
            )
            raise ConfigError(msg)
        return tokenizer
