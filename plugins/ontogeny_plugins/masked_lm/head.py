"""Masked language models: loaded from a checkpoint, or random weights of an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM

from ontogeny.errors import ConfigError
from ontogeny.head import Head
from ontogeny.models import architecture, load_pretrained, random_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.masked_lm import MaskedLM


class MaskedLMHead(Head):
    """Any model that `AutoModelForMaskedLM` knows."""

    def __init__(self, config: MaskedLM) -> None:
        self.config = config

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode; each token sees all others.

        A checkpoint of a body alone gets output layers with random weights, which the preflight
        tells. Raises ConfigError for families without such a head.
        """
        changes = {"is_decoder": False}
        if model.source is not None:
            _require_encoder("model.source", _config_of(model.source))
            return load_pretrained(AutoModelForMaskedLM, model, changes)
        config = architecture(model, tokenizer, changes)
        _require_encoder("model.config", config)
        return random_weights(AutoModelForMaskedLM, config)


def _config_of(source: str) -> PreTrainedConfig | None:
    """Return the config of a checkpoint that is at hand; else `load_pretrained` fetches it."""
    try:
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(source, local_files_only=True))
    except (OSError, ValueError):
        return None


def _require_encoder(key: str, config: PreTrainedConfig | None) -> None:
    if config is not None and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        msg = (
            f"{key} is a {config.model_type} model, which has no masked language modelling head: "
            f"choose an encoder, such as model=bert_tiny, roberta_tiny or modernbert_tiny, or "
            f"head=causal_lm"
        )
        raise ConfigError(msg)
