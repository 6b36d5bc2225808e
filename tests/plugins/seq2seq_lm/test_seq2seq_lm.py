"""Encoder-decoder models are opened whole, and know with which token to begin to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5ForConditionalGeneration,
)

from ontogeny.errors import ConfigError
from ontogeny.options import Model
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.seq2seq_lm import Seq2SeqLM
from ontogeny_plugins.seq2seq_lm.head import Seq2SeqLMHead

T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 1,
    "num_heads": 2,
    "num_decoder_layers": 2,
}
BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}


def load(model: Model, tokenizer: Any = None) -> Any:
    return Seq2SeqLMHead(Seq2SeqLM()).load(model, tokenizer or byte_tokenizer())


def test_an_architecture_becomes_an_encoder_and_a_decoder() -> None:
    model = load(Model(config=T5))
    assert isinstance(model, T5ForConditionalGeneration)
    assert (len(model.encoder.block), len(model.decoder.block)) == (1, 2)
    assert model.config.vocab_size == len(byte_tokenizer())


def test_the_decoder_starts_with_the_padding_token_as_in_t5() -> None:
    tokenizer = byte_tokenizer()
    model = load(Model(config=T5), tokenizer)
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id
    assert model.generation_config.decoder_start_token_id == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert load(Model(config=T5), tokenizer).config.decoder_start_token_id == tokenizer.eos_token_id
    given = load(Model(config={**BART, "decoder_start_token_id": 7}))
    assert given.config.decoder_start_token_id == 7


def test_a_checkpoint_is_what_transformers_opens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 300}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(**sizes, **heads, encoder_ffn_dim=24, decoder_ffn_dim=24)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    ours = load(Model(source=str(tmp_path)))
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids_BT = torch.arange(10, 20).view(2, 5)
    with torch.no_grad():
        logits = [
            model.eval()(input_ids=ids_BT, decoder_input_ids=ids_BT).logits
            for model in (ours, theirs)
        ]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    assert ours.config.decoder_start_token_id == config.decoder_start_token_id


def test_a_model_of_one_stack_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 300}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path)
    reason = "is a llama model, which is no encoder with a decoder: choose one that is, such as"
    with pytest.raises(ConfigError, match=f"model.source {reason}"):
        load(Model(source=str(tmp_path)))
    with pytest.raises(ConfigError, match=f"model.config {reason}"):
        load(Model(config={"model_type": "llama"}))


def test_a_tokenizer_with_nothing_to_start_with_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="the tokenizer has neither a padding nor an eos token"):
        load(Model(config=T5), tokenizer)
