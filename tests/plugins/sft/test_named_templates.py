"""Templates by name: the tokens that they need, and a checkpoint that renders as training did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ontogeny.checkpoint import save_tokenizer
from ontogeny.errors import ConfigError
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import Instruction
from ontogeny_plugins.sft.named_templates import give_template

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
]


def base_tokenizer(*, pad: str | None = "<|padding|>") -> Any:
    """Return a tokenizer as base models have them: without a template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.pad_token = pad
    return tokenizer


def test_a_tokenizer_without_a_template_gets_chatml_and_its_tokens() -> None:
    tokenizer = base_tokenizer()
    size = len(tokenizer)
    told = give_template(tokenizer, "auto")
    assert told == "chatml, since the tokenizer has none; new tokens <|im_start|>, <|im_end|>"
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [size, size + 1]
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>")
    text = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_padding_is_never_the_end_of_a_turn() -> None:
    tokenizer = base_tokenizer(pad=None)
    give_template(tokenizer, "chatml")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_a_tokenizer_with_a_template_keeps_it() -> None:
    tokenizer = byte_tokenizer()
    before, size = tokenizer.chat_template, len(tokenizer)
    assert give_template(tokenizer, "auto") == "the tokenizer's own"
    assert (tokenizer.chat_template, len(tokenizer)) == (before, size)


def test_tokens_that_are_there_are_not_added_again() -> None:
    tokenizer = base_tokenizer()
    give_template(tokenizer, "chatml")
    size = len(tokenizer)
    assert give_template(tokenizer, "chatml") == "chatml, in place of the tokenizer's own"
    assert len(tokenizer) == size


@pytest.mark.parametrize("name", ["chatml", "llama3", "plain"])
def test_what_was_rendered_is_rendered_again_after_loading(name: str, tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    give_template(tokenizer, name)
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for talk, asks in ((TALK, False), (TALK[:2], True)):
        texts = [
            each.apply_chat_template(talk, tokenize=False, add_generation_prompt=asks)
            for each in (tokenizer, loaded)
        ]
        assert texts[0] == texts[1]
        assert tokenizer(texts[0])["input_ids"] == loaded(texts[1])["input_ids"]
    assert loaded.eos_token == tokenizer.eos_token


def test_llama3_is_rendered_as_its_authors_do() -> None:
    tokenizer = base_tokenizer()
    give_template(tokenizer, "llama3")
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == (
        "<|endoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    )


def test_plain_puts_turns_on_lines_of_their_own_and_ends_answers() -> None:
    tokenizer = base_tokenizer()
    give_template(tokenizer, "plain")
    text = tokenizer.apply_chat_template([*TALK, *TALK[1:]], tokenize=False)
    assert text == "Be brief.\nHi\nHello.<|endoftext|>Hi\nHello.<|endoftext|>"


def test_none_takes_the_template_away() -> None:
    tokenizer = byte_tokenizer()
    assert give_template(tokenizer, "none") == "none, prompts and completions are bare text"
    assert tokenizer.chat_template is None


def test_the_path_of_a_template_becomes_the_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    chosen = Instruction(chat_template=str(file)).chat_template
    assert chosen == file.read_text()  # so the content is part of the stage's key
    tokenizer = base_tokenizer()
    told = give_template(tokenizer, chosen)
    assert told == "the one of stage.chat_template, since the tokenizer has none"
    assert tokenizer.apply_chat_template(TALK[1:], tokenize=False) == "HiHello."


def test_what_looks_like_a_special_token_and_is_none_is_told() -> None:
    tokenizer = base_tokenizer()
    told = give_template(tokenizer, "{% for m in messages %}{{ m.content }}<|over|>{% endfor %}")
    assert told.endswith("; the tokenizer has no token <|over|>")


def test_a_name_that_is_no_template_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'chatlm', which is no file .*\(did you mean 'chatml'"):
        Instruction(chat_template="chatlm")


def test_a_template_that_is_no_jinja_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"is no Jinja template: line 2: unexpected"):
        give_template(base_tokenizer(), "{% for m in messages %}\n{{ m.content }")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "stage.samples is -1; expected 0 or more"),
        ({"sample_tokens": -1}, "stage.sample_tokens is -1; expected 0 or more"),
        ({"temperature": -0.5}, "stage.temperature is -0.5; expected 0 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Instruction(**options)
