"""Classes, or one number, for a whole text."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from ontogeny.head import Head
from ontogeny_plugins.heads.attached import AttachedSequenceClassification
from ontogeny_plugins.heads.loading import (
    Facts,
    TaskClasses,
    classes_of,
    load_with_head,
    pooling_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import Reward, SequenceClassification


class SequenceClassificationHead(Head):
    """transformers' class where the family has one that pools as asked, else our own."""

    def __init__(self, config: SequenceClassification | Reward) -> None:
        self.config = config
        self.facts: Facts = {}

    def configure(self, facts: Facts) -> None:
        """Take what the data says of its labels."""
        self.facts = facts

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        attached = AttachedSequenceClassification
        decide = partial(
            pooling_settings,
            name=attached.name,
            asked=self.config.pooling,
            tokenizer=tokenizer,
        )
        classes = TaskClasses(
            classes_of(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
            attached,
            decide,
            tokenizer,
            self.facts,
        )
        return load_with_head(classes, model, tokenizer)
