"""Where in a context the answer begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import MODEL_FOR_QUESTION_ANSWERING_MAPPING

from ontogeny.head import Head
from ontogeny_plugins.heads.attached import AttachedQuestionAnswering
from ontogeny_plugins.heads.loading import (
    Facts,
    Settings,
    TaskClasses,
    classes_of,
    load_with_head,
    plain_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import QuestionAnswering


class QuestionAnsweringHead(Head):
    """transformers' class where the family has one, else our own."""

    def __init__(self, config: QuestionAnswering) -> None:
        self.config = config
        self.facts: Facts = {}

    def configure(self, facts: Facts) -> None:
        """Take what the data says of its labels."""
        self.facts = facts

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        classes = TaskClasses(
            classes_of(MODEL_FOR_QUESTION_ANSWERING_MAPPING),
            AttachedQuestionAnswering,
            _decide,
            tokenizer,
            self.facts,
        )
        return load_with_head(classes, model, tokenizer)


def _decide(config: PreTrainedConfig, own: type | None) -> Settings | None:
    if config.num_labels != 2:  # the checkpoint of a classifier: BERT's class would keep its size
        config.num_labels = 2
    return plain_settings(config, own, name=AttachedQuestionAnswering.name)
