"""Classes of every token."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

from ontogeny.head import Head
from ontogeny_plugins.heads.attached import AttachedTokenClassification
from ontogeny_plugins.heads.loading import (
    Facts,
    TaskClasses,
    classes_of,
    load_with_head,
    plain_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import TokenClassification


class TokenClassificationHead(Head):
    """transformers' class where the family has one, else our own."""

    def __init__(self, config: TokenClassification) -> None:
        self.config = config
        self.facts: Facts = {}

    def configure(self, facts: Facts) -> None:
        """Take what the data says of its labels."""
        self.facts = facts

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        attached = AttachedTokenClassification
        decide = partial(plain_settings, name=attached.name)
        classes = TaskClasses(
            classes_of(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING),
            attached,
            decide,
            tokenizer,
            self.facts,
        )
        return load_with_head(classes, model, tokenizer)
