"""A model has a row for every token of its tokenizer, and stops where the tokenizer says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ontogeny.testing import byte_tokenizer
from ontogeny.token_ids import (
    added_since,
    end_of_turn,
    grow_embeddings,
    set_token_ids,
    stop_ids,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model(*, tied: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = LlamaConfig(
        **sizes,
        num_attention_heads=2,
        vocab_size=len(byte_tokenizer()),
        eos_token_id=0,
        bos_token_id=0,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_old_and_a_new_end_is_the_old_end(tied: bool) -> None:
    grown = model(tied=tied)
    layers = ("get_input_embeddings", "get_output_embeddings")
    before = [getattr(grown, layer)().weight.detach().clone() for layer in layers]
    assert grow_embeddings(grown, chat_tokenizer()) == 2
    for layer, old in zip(layers, before, strict=True):
        weight = getattr(grown, layer)().weight
        torch.testing.assert_close(weight[: len(old)], old, rtol=0, atol=0)
        torch.testing.assert_close(weight[len(old)], old.mean(0))
        torch.testing.assert_close(weight[len(old) + 1], old[0], rtol=0, atol=0)
        assert weight.shape == (len(chat_tokenizer()), 16)
    assert grown.config.vocab_size == len(chat_tokenizer())
    assert (grown.get_input_embeddings().weight is grown.get_output_embeddings().weight) == tied


def test_spare_rows_that_new_tokens_get_are_set_as_new_ones_are() -> None:
    """As in Pythia and Qwen: more rows than tokens, of random values."""
    roomy, known = model(tied=False), len(byte_tokenizer())
    roomy.resize_token_embeddings(known + 8, mean_resizing=False)
    assert added_since(chat_tokenizer(), byte_tokenizer()) == [known, known + 1]
    assert added_since(chat_tokenizer(), chat_tokenizer()) == []
    before = roomy.get_output_embeddings().weight.detach().clone()
    assert grow_embeddings(roomy, chat_tokenizer(), [known, known + 1]) == 2
    weight = roomy.get_output_embeddings().weight
    torch.testing.assert_close(weight[:known], before[:known], rtol=0, atol=0)
    torch.testing.assert_close(weight[known], before[:known].mean(0))
    torch.testing.assert_close(weight[known + 1], before[0], rtol=0, atol=0)
    torch.testing.assert_close(weight[known + 2 :], before[known + 2 :], rtol=0, atol=0)
    assert grow_embeddings(roomy, chat_tokenizer()) == 0


def test_a_model_with_room_for_all_tokens_is_left_alone() -> None:
    same = model()
    assert grow_embeddings(same, byte_tokenizer()) == 0


def test_a_tokenizer_of_another_model_gets_no_rows() -> None:
    small = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    assert grow_embeddings(small, byte_tokenizer()) == 0
    assert len(small.get_input_embeddings().weight) == 100


def test_the_end_of_a_turn_is_the_special_token_after_an_answer() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_ids(tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>"), 0]


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{{ raise_exception('I want a system turn') }}",
        "nothing of the conversation",
    ],
)
def test_a_template_without_such_a_token_has_no_end_of_turn(template: str | None) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    assert end_of_turn(tokenizer) is None
    assert stop_ids(tokenizer) == [tokenizer.eos_token_id]


def test_generation_stops_at_the_new_end_and_at_the_old_one() -> None:
    changed, tokenizer = model(), chat_tokenizer()
    set_token_ids(changed, tokenizer)
    assert changed.config.eos_token_id == tokenizer.eos_token_id
    assert changed.generation_config.eos_token_id == [tokenizer.eos_token_id, 0]
    assert changed.generation_config.pad_token_id == tokenizer.pad_token_id


def test_what_a_checkpoint_says_stays_where_nothing_is_missing() -> None:
    kept, tokenizer = model(), chat_tokenizer()
    kept.config.eos_token_id = [5, tokenizer.eos_token_id]
    kept.generation_config = GenerationConfig(eos_token_id=[7, tokenizer.eos_token_id, 5])
    set_token_ids(kept, tokenizer)
    assert kept.config.eos_token_id == [5, tokenizer.eos_token_id]
    assert kept.generation_config.eos_token_id == [7, tokenizer.eos_token_id, 5]
