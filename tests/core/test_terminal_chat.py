"""`ontogeny chat`: answers are the checkpoint's own, through its template, as they are written."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.plugins import registry
from ontogeny.terminal_chat import Chat, Conversation, Streamer, lines
from ontogeny.testing import byte_tokenizer

Command = Callable[..., Any]
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}


def save(folder: Path, model: Any, *, template: str | None = "own") -> Path:
    tokenizer = byte_tokenizer()
    if template != "own":
        tokenizer.chat_template = template
    head = registry().get("head", "causal_lm").component.load()(None)
    return save_checkpoint(Bundle(model, tokenizer, head), folder, {})


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        num_hidden_layers=1,
        max_position_embeddings=96,
        eos_token_id=0,
        initializer_range=0.5,
        **SIZES,
    )
    model = LlamaForCausalLM(config).eval()
    readable = byte_tokenizer().encode("abc ", add_special_tokens=False)
    others = [number for number in range(259) if number not in readable]
    model.lm_head.weight.data[others] = 0  # else it would write halves of characters
    return model


@pytest.fixture
def checkpoint(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    return save(tmp_path / "checkpoint", model)


def greedy(model: LlamaForCausalLM, text: str, tokens: int) -> str:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    start = len(tokenizer.encode(text, add_special_tokens=False))
    return cast("str", tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_each_line_is_a_turn_and_what_was_said_is_remembered(
    cli: Command, checkpoint: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nand?\n"))
    ended = cli("chat", str(checkpoint), "temperature=0", "max_tokens=4", "system=be brief")
    assert ended.code == 0, ended.err
    first = greedy(model, "<system>be brief<user>hi<assistant>", 4)
    before = f"<system>be brief<user>hi<assistant>{first}<|endoftext|><user>and?<assistant>"
    assert ended.out == f"{first}\n{greedy(model, before, 4)}\n"


def test_new_begins_anew_and_exit_ends(
    cli: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n/new\nhi\n/exit\nhi\n"))
    ended = cli("chat", str(checkpoint), "temperature=0", "max_tokens=3")
    answers = ended.out.splitlines()
    assert len(answers) == 2
    assert answers[0] == answers[1]


def test_a_seed_repeats_what_is_drawn(
    cli: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in (1, 1, 2):
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        options = ("temperature=2", "top_p=1", "max_tokens=12", f"seed={seed}")
        found.append(cli("chat", str(checkpoint), *options).out)
    assert found[0] == found[1] != found[2]


def test_without_a_template_text_is_continued_and_that_is_said(
    cli: Command, tmp_path: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save(tmp_path / "base", model, template=None)
    monkeypatch.setattr("sys.stdin", io.StringIO("once upon\n"))
    ended = cli("chat", str(base), "temperature=0", "max_tokens=5")
    assert "no chat template: what you write is continued as it stands" in ended.err
    assert ended.out == greedy(model, "once upon", 5) + "\n"


def test_an_answer_is_written_as_it_comes() -> None:
    tokenizer, out = byte_tokenizer(), io.StringIO()
    streamer = Streamer(tokenizer, out)
    streamer.put(torch.tensor([[9, 9]]))  # what is answered
    seen = []
    for number in tokenizer.encode("one two, three", add_special_tokens=False):
        streamer.put(torch.tensor([number]))
        seen.append(out.getvalue())
    assert list(dict.fromkeys(seen)) == ["", "one ", "one two, "]
    streamer.end()
    assert out.getvalue() == streamer.text == "one two, three"


def test_the_oldest_turns_make_room(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation.open(str(checkpoint), Chat(temperature=0, max_tokens=8))
    for _ in range(4):
        conversation.answer("a question of some length", io.StringIO())
    assert "the oldest turns do not fit" in capsys.readouterr().err
    assert len(conversation.turns) < 8


def test_lines_of_a_pipe_end_with_it() -> None:
    assert list(lines(io.StringIO("one\n\n  \ntwo"))) == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temperature=-1"], "temperature is -1.0; expected 0"),
        (["temperature=hot"], "temperature is 'hot'; expected a number"),
        (["max_token=5"], "'max_token=5' is no option (did you mean 'max_tokens'?)"),
        (["plain=true", "system=x"], "leave out one of them"),
        (["device=nowhere"], "device is 'nowhere', which torch cannot use here"),
    ],
)
def test_wrong_options_are_said_in_one_line(
    cli: Command, checkpoint: Path, arguments: list[str], message: str
) -> None:
    ended = cli("chat", str(checkpoint), *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_talked_with_is_said_in_one_line(
    cli: Command, tmp_path: Path, model: LlamaForCausalLM
) -> None:
    config = BertConfig(vocab_size=259, num_hidden_layers=1, **SIZES)
    head = registry().get("head", "sequence_classification").component
    bundle = Bundle(
        cast("Any", BertForSequenceClassification(config)),
        byte_tokenizer(),
        head.load()(head.config()),
    )
    classifier = save_checkpoint(bundle, tmp_path / "classifier", {})
    base = save(tmp_path / "base", model, template=None)
    strict = save(tmp_path / "strict", model, template="{{ raise_exception('no system') }}")
    for arguments, message in (
        ([], "usage: ontogeny chat CHECKPOINT"),
        ([str(tmp_path / "nowhere")], "neither a folder nor a Hub name"),
        ([str(classifier)], "which holds a BertForSequenceClassification: it writes no text"),
        ([str(base), "system=x"], "no chat template with a place for it"),
        ([str(strict), "system=x"], "the chat template of the checkpoint refuses these turns"),
    ):
        ended = cli("chat", *arguments)
        assert (ended.code, message in ended.err) == (2, True), ended.err
        assert ended.err.count("\n") == 1
