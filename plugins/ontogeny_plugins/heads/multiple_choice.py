"""One score for each of the texts to choose from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from transformers import MODEL_FOR_MULTIPLE_CHOICE_MAPPING

from ontogeny.head import Head
from ontogeny_plugins.heads.attached import AttachedMultipleChoice
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
    from ontogeny_plugins.heads import MultipleChoice


class MultipleChoiceHead(Head):
    """transformers' class where the family has one that pools as asked, else our own."""

    def __init__(self, config: MultipleChoice) -> None:
        self.config = config
        self.facts: Facts = {}

    def configure(self, facts: Facts) -> None:
        """Take what the data says of its labels."""
        self.facts = facts

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        attached = AttachedMultipleChoice
        decide = partial(
            pooling_settings,
            name=attached.name,
            asked=self.config.pooling,
            tokenizer=tokenizer,
        )
        classes = TaskClasses(
            classes_of(MODEL_FOR_MULTIPLE_CHOICE_MAPPING), attached, decide, tokenizer, self.facts
        )
        return load_with_head(classes, model, tokenizer)
