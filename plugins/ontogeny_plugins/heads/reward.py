"""One number for a whole text, read at its last token."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ontogeny.models import new_weights
from ontogeny_plugins.heads.sequence_classification import SequenceClassificationHead

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import Reward

FACTS = {"labels": ["reward"], "problem_type": "regression"}


class RewardHead(SequenceClassificationHead):
    """Sequence classification with one output, which a new head gives as 0."""

    def __init__(self, config: Reward) -> None:
        super().__init__(config)
        self.facts = FACTS
        self.zero = config.zero

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        loaded = super().load(model, tokenizer)
        if self.zero:
            _silence(loaded, is_new=model.source is None)
        return loaded


def _silence(model: PreTrainedModel, *, is_new: bool) -> None:
    """Set the output layer to 0 where the checkpoint did not hold it."""
    named = dict(cast("nn.Module", model).named_parameters())
    new = new_weights(model)
    body = f"{model.base_model_prefix}."
    outputs = [
        name
        for name, parameter in named.items()
        if not name.startswith(body) and parameter.shape[:1] == (1,) and (is_new or name in new)
    ]
    with torch.no_grad():
        for name in outputs:
            named[name].zero_()
