"""The head of masked language models: random or loaded, float32, and looking both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForPreTraining,
    BertLMHeadModel,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny import CheckpointError, ConfigError, compose
from ontogeny.attention import is_causal
from ontogeny.models import new_weights
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.masked_lm import MaskedLM
from ontogeny_plugins.masked_lm.head import MaskedLMHead

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
FAMILIES = ["bert_tiny", "roberta_tiny", "modernbert_tiny"]


@pytest.fixture
def head() -> MaskedLMHead:
    seed_everything(0)
    return MaskedLMHead(MaskedLM())


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(5, 40)[None]).logits
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "bert_small", "roberta_small", "modernbert_small"])
def test_every_encoder_that_ships_comes_in_float32_and_train_mode(
    family: str, head: MaskedLMHead
) -> None:
    options = compose([f"model={family}"]).stages["pretraining"].model
    model = head.load(options, byte_tokenizer())
    assert type(model).__name__.endswith("ForMaskedLM")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.training
    assert not is_causal(model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(model.get_input_embeddings().weight) == len(byte_tokenizer())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_opens_elsewhere_and_here_with_the_same_logits(
    family: str, head: MaskedLMHead, tmp_path: Path
) -> None:
    options = compose([f"model={family}"]).stages["pretraining"].model
    model = head.load(options, byte_tokenizer())
    head.save(model, tmp_path)
    again = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    assert torch.equal(logits(model), logits(again))
    assert torch.equal(logits(model), logits(AutoModelForMaskedLM.from_pretrained(tmp_path)))
    assert not new_weights(again)


def test_a_body_alone_gets_a_new_head(head: MaskedLMHead, tmp_path: Path) -> None:
    body = BertModel(BertConfig(**SIZES))
    body.save_pretrained(tmp_path)
    model = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    embeddings = body.get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, embeddings)
    assert {name.split(".")[0] for name in new_weights(model)} == {"cls"}


def test_a_checkpoint_with_more_heads_keeps_its_own(head: MaskedLMHead, tmp_path: Path) -> None:
    both = BertForPreTraining(BertConfig(**SIZES)).eval()
    both.save_pretrained(tmp_path)
    model = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    with torch.no_grad():
        expected = both(torch.arange(5, 40)[None]).prediction_logits
    torch.testing.assert_close(logits(model), expected)
    assert not new_weights(model)


def test_a_decoder_of_an_encoder_family_looks_both_ways_again(
    head: MaskedLMHead, tmp_path: Path
) -> None:
    BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)).save_pretrained(tmp_path)
    model = head.load(Model(source=str(tmp_path)), byte_tokenizer())
    assert not is_causal(model)
    assert model.config.is_decoder is False


def test_a_family_without_such_a_head_is_refused_with_the_way_out(
    head: MaskedLMHead, tmp_path: Path
) -> None:
    words = "llama model, which has no masked language modelling head: choose an encoder, such as"
    with pytest.raises(ConfigError, match=f"model.config is a {words} model=bert_tiny"):
        head.load(Model(config={"model_type": "llama"}), byte_tokenizer())
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"model.source is a {words} model=bert_tiny"):
        head.load(Model(source=str(tmp_path)), byte_tokenizer())


def test_a_folder_that_is_no_checkpoint_is_named(head: MaskedLMHead, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="which cannot be opened: Unrecognized model in"):
        head.load(Model(source=str(tmp_path)), byte_tokenizer())
