"""What a model is given of a row: through the chat template, or as plain text."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import T5Config, T5ForConditionalGeneration

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.prompts import plain_tokens, prompts_of, start_tokens
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello."},
]


def bundle(*, chat: bool = True, start: bool = True) -> Bundle:
    tokenizer = byte_tokenizer()
    if not chat:
        tokenizer.chat_template = None
    if not start:
        tokenizer.bos_token = tokenizer.eos_token = None
    return Bundle(bigram_model(torch.zeros(259, 259)), tokenizer, cast("Any", None))


def read(own: Bundle, row: dict[str, object], template: str = "auto") -> tuple[str, str]:
    prompt = prompts_of(own, [row], template)[0]
    return cast("str", own.tokenizer.decode(prompt.tokens)), prompt.answer


def test_a_prompt_goes_through_the_chat_template_as_what_the_user_says() -> None:
    row: dict[str, object] = {"prompt": "Hi?", "completion": "Hello."}
    assert read(bundle(), row) == ("<user>Hi?<assistant>", "Hello.")
    own = bundle()
    turns = [{"role": "user", "content": "Hi?"}]
    rendered: Any = own.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert prompts_of(own, [row], "auto")[0].tokens == rendered["input_ids"]


def test_the_last_turn_of_a_conversation_is_the_answer() -> None:
    assert read(bundle(), {"messages": CHAT}) == (
        "<system>Be kind.<user>Hi?<assistant>",
        "Hello.",
    )
    unanswered = {"messages": CHAT[:2]}
    assert read(bundle(), unanswered) == ("<system>Be kind.<user>Hi?<assistant>", "")


def test_prompt_and_completion_may_be_messages() -> None:
    row = {"prompt": CHAT[:2], "completion": CHAT[2:]}
    assert read(bundle(), row) == ("<system>Be kind.<user>Hi?<assistant>", "Hello.")


def test_a_plain_prompt_is_what_a_server_sends_the_tokenizers_own_start_and_the_text() -> None:
    row: dict[str, object] = {"prompt": "Hi?", "completion": "Hello."}
    assert read(bundle(chat=False), row) == ("Hi?", "Hello.")
    assert read(bundle(), row, "plain") == ("Hi?", "Hello.")
    own = bundle()
    own.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|mask|> $A <|endoftext|>", special_tokens=[("<|mask|>", 2), ("<|endoftext|>", 0)]
    )
    assert read(own, row, "plain") == ("<|mask|>Hi?", "Hello.")


def test_a_text_to_go_on_with_begins_as_a_document_does() -> None:
    own = bundle()
    assert plain_tokens(own, "ab") == [0, *own.tokenizer("ab")["input_ids"]]
    own = bundle(start=False)
    assert plain_tokens(own, "ab") == own.tokenizer("ab")["input_ids"]


def test_the_start_is_the_bos_token_else_the_eos_token() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = "<|mask|>", "<|padding|>"
    assert start_tokens(tokenizer) == [2]
    tokenizer.bos_token = None
    assert start_tokens(tokenizer) == [1]
    tokenizer.eos_token = None
    assert start_tokens(tokenizer) == []


def test_an_encoder_decoder_reads_what_its_tokenizer_makes_of_a_text() -> None:
    config = T5Config(vocab_size=259, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    own = bundle(chat=False)
    own.model = T5ForConditionalGeneration(config)
    assert plain_tokens(own, "ab") == own.tokenizer("ab")["input_ids"]


def test_conversations_without_a_template_are_an_error_unless_plain_text_is_asked_for() -> None:
    own = bundle(chat=False)
    with pytest.raises(ConfigError, match=r"no chat template; set tokenizer.source .* template=pl"):
        read(own, {"messages": CHAT})
    assert read(own, {"messages": CHAT}, "plain") == ("Be kind.\n\nHi?", "Hello.")


def test_a_prompt_of_no_token_is_an_error() -> None:
    with pytest.raises(DataError, match="the prompt '' gives no token for the model to read"):
        prompts_of(bundle(chat=False), [{"prompt": ""}], "auto")
