"""Causal language models: loaded from a checkpoint, or random weights of an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoModelForCausalLM

from ontogeny.head import Head
from ontogeny.models import architecture, load_pretrained, random_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.causal_lm import CausalLM


class CausalLMHead(Head):
    """Any model that `AutoModelForCausalLM` knows."""

    def __init__(self, config: CausalLM) -> None:
        self.config = config

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode; encoder families become causal decoders."""
        changes = {"is_decoder": True}
        if model.source is not None:
            return load_pretrained(AutoModelForCausalLM, model, changes)
        return random_weights(AutoModelForCausalLM, architecture(model, tokenizer, changes))
