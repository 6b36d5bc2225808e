"""Encoder-decoder models: loaded from a checkpoint, or random weights of an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForSeq2SeqLM,
)

from ontogeny.errors import ConfigError
from ontogeny.head import Head
from ontogeny.models import architecture, load_pretrained, random_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.seq2seq_lm import Seq2SeqLM


class Seq2SeqLMHead(Head):
    """Any model that `AutoModelForSeq2SeqLM` knows."""

    def __init__(self, config: Seq2SeqLM) -> None:
        self.config = config

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode.

        Raises ConfigError for an architecture without encoder and decoder, or with nothing that
        could start the decoder.
        """
        if model.source is not None:
            _require_family("model.source", _config_of(model.source))
            return load_pretrained(AutoModelForSeq2SeqLM, model, {})
        config = architecture(model, tokenizer, {})
        _require_family("model.config", config)
        if "decoder_start_token_id" not in model.config:
            config.decoder_start_token_id = _decoder_start(tokenizer)
        return random_weights(AutoModelForSeq2SeqLM, config)


def _config_of(source: str) -> PreTrainedConfig | None:
    """Return the config of a checkpoint that is at hand; else `load_pretrained` fetches it."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        return None
    return config


def _require_family(key: str, config: PreTrainedConfig | None) -> None:
    if config is not None and type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        msg = (
            f"{key} is a {config.model_type} model, which is no encoder with a decoder: "
            f"choose one that is, such as model=t5_tiny, or head=causal_lm"
        )
        raise ConfigError(msg)


def _decoder_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token, with which T5's decoder starts, or else the eos token."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    msg = (
        "the tokenizer has neither a padding nor an eos token, and a decoder starts with one of "
        "them; set tokenizer.source to one that has"
    )
    raise ConfigError(msg)
