"""One number for every token, whatever the backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ontogeny.head import Head
from ontogeny.models import new_weights
from ontogeny_plugins.heads.attached import AttachedValue
from ontogeny_plugins.heads.loading import Settings, TaskClasses, load_with_head

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import Value

FACTS = {"labels": ["value"], "problem_type": "regression"}


class ValueHead(Head):
    """Our own class for every family; a new layer gives 0, that of a reward model is taken over."""

    def __init__(self, config: Value) -> None:
        self.config = config

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        classes = TaskClasses(_no_class, AttachedValue, _own, tokenizer, FACTS)
        loaded = load_with_head(classes, model, tokenizer)
        new = new_weights(loaded)
        with torch.no_grad():
            for name, parameter in loaded.score.named_parameters():  # type: ignore[union-attr]
                if model.source is None or f"score.{name}" in new:
                    parameter.zero_()
        return loaded


def _no_class(_: type) -> None:
    return None


def _own(_: PreTrainedConfig, __: type | None) -> Settings:
    return {}
