"""The head of causal language models: random or loaded, always float32, always causal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from ontogeny import ConfigError, compose
from ontogeny.attention import is_causal
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.causal_lm import CausalLM
from ontogeny_plugins.causal_lm.head import CausalLMHead

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def head() -> CausalLMHead:
    seed_everything(0)
    return CausalLMHead(CausalLM())


def test_random_weights_come_in_float32_and_train_mode(head: CausalLMHead) -> None:
    model = head.load(Model(config=TINY), byte_tokenizer())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.training


def test_what_is_saved_is_what_is_loaded(head: CausalLMHead, tmp_path: Path) -> None:
    model = head.load(Model(config=TINY), byte_tokenizer())
    head.save(model, tmp_path)
    again = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)
    assert head.load(Model(source=str(tmp_path)), byte_tokenizer()).training


def test_an_encoder_family_becomes_a_causal_decoder(head: CausalLMHead) -> None:
    config = compose(["model=bert_tiny"]).stages["pretraining"].model
    assert is_causal(head.load(config, byte_tokenizer()))


def test_an_encoder_checkpoint_becomes_a_causal_decoder_with_its_weights(
    head: CausalLMHead, tmp_path: Path
) -> None:
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    encoder = BertForMaskedLM(config)
    encoder.save_pretrained(tmp_path)
    decoder = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    assert is_causal(decoder)
    torch.testing.assert_close(
        decoder.get_input_embeddings().weight, encoder.get_input_embeddings().weight
    )
    head.save(decoder, tmp_path / "decoder")
    assert is_causal(AutoModelForCausalLM.from_pretrained(tmp_path / "decoder"))


def test_without_an_architecture_or_a_checkpoint_there_is_no_model(head: CausalLMHead) -> None:
    with pytest.raises(ConfigError, match="no model: choose an architecture"):
        head.load(Model(), byte_tokenizer())
