"""Rows with answers between tokenizers: each side reads them in its own chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.plugins.distillation.conftest import RUN, STUDENT, saved, small_llama
from tests.plugins.distillation.test_distillation_stage import losses, other_tokenizer
from transformers import PreTrainedTokenizerBase

from ontogeny import ConfigError, compose, run
from ontogeny.errors import UserError
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.distillation.alignment import (
    POSITIONS,
    TOKENS,
    Reader,
    aligned_example,
    answer_readings,
    shared_tokens,
)

IGNORED = -100
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Another order of things: a start, spaces before words, and the eos token behind an answer.
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[Q] {{ m['content'] }} [/Q]"
    "{% elif m['role'] == 'system' %}[S] {{ m['content'] }} [/S]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURNS = [
    {"role": "user", "content": "Who came?"},
    {"role": "assistant", "content": "The old wind."},
    {"role": "user", "content": "Who saw it?"},
    {"role": "assistant", "content": "The river saw it."},
]


def chatml(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def brackets(texts: Path) -> PreTrainedTokenizerBase:
    tokenizer = other_tokenizer(texts)
    tokenizer.chat_template = BRACKETS
    return tokenizer


def aligned(
    row: dict[str, Any], student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> dict[str, np.ndarray]:
    """Return the example of one row."""
    read = [Reader(name, each) for name, each in (("student", student), ("teacher", teacher))]
    own, theirs = (next(each.answers([row])) for each in read)
    return aligned_example(*answer_readings(row, own, theirs))


def met(
    example: dict[str, np.ndarray],
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
) -> list[tuple[str, str]]:
    """Return what both have read where they meet."""
    return [
        (
            str(student.decode(example["input_ids"][: place + 1])),
            str(teacher.decode(example[TOKENS][: their_place + 1])),
        )
        for place, their_place in enumerate(example[POSITIONS])
        if their_place >= 0
    ]


def learned(example: dict[str, np.ndarray], tokenizer: PreTrainedTokenizerBase) -> str:
    labels = example["labels"]
    return str(tokenizer.decode(labels[labels != IGNORED]))


def test_answers_alone_are_learned_and_both_have_read_as_much_of_them_where_they_meet(
    texts: Path,
) -> None:
    student, teacher = chatml(byte_tokenizer()), brackets(texts)
    example = aligned({"messages": TURNS}, student, teacher)
    assert learned(example, student) == "The old wind.<|im_end|>The river saw it.<|im_end|>"
    pairs = met(example, student, teacher)
    for own, their in pairs:
        assert own.rpartition("assistant\n")[2] == their.rpartition("[/Q] ")[2]
        assert own.count("Who") == their.count("Who")
    # Where both are at the end of an answer, one is to say <|im_end|> and the other one </s>.
    ended = [own for own, _ in pairs if own.endswith(("wind.", "saw it."))]
    assert len(ended) == 2
    assert len(pairs) > 10


def test_with_one_template_they_meet_wherever_something_is_learned() -> None:
    both = chatml(byte_tokenizer())
    example = aligned({"messages": TURNS}, both, both)
    places = np.arange(len(example["labels"]))
    assert (
        example[POSITIONS].tolist() == np.where(example["labels"] == IGNORED, -1, places).tolist()
    )


@pytest.mark.parametrize("templates", [True, False])
def test_prompts_with_completions_are_read_as_by_other_objectives(
    texts: Path, templates: bool
) -> None:
    student: PreTrainedTokenizerBase = byte_tokenizer()
    teacher: PreTrainedTokenizerBase = other_tokenizer(texts)
    student.chat_template, end = None, str(student.eos_token)
    if templates:
        student, teacher, end = chatml(student), brackets(texts), "<|im_end|>"
    row = {"prompt": "river 7?", "completion": " stone stone!"}
    example = aligned(row, student, teacher)
    assert learned(example, student).removesuffix(end) == row["completion"]
    pairs = met(example, student, teacher)
    assert {own.endswith("stone") for own, _ in pairs} == {True, False}
    assert len(pairs) > 2
    if not templates:  # the first token of the answer, too
        assert pairs[0][0].endswith("river 7?")
        assert pairs[0][1].endswith("river 7?")


def test_an_answer_that_calls_a_tool_is_learned_from_the_data_alone() -> None:
    student = chatml(byte_tokenizer())
    student.chat_template = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] }}{{ m.tool_calls | tojson if m.tool_calls }}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "river"}}}
    turns = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    student.chat_template = "{{ tools | tojson if tools }}" + student.chat_template
    example = aligned({"messages": turns, "tools": [tool]}, student, student)
    assert "look" in learned(example, student)
    assert (example[POSITIONS] == -1).all()


def test_ends_of_turns_stand_for_each_other(texts: Path) -> None:
    student, teacher = chatml(byte_tokenizer()), brackets(texts)
    end = student.convert_tokens_to_ids("<|im_end|>")
    for turns, own in ((True, end), (False, student.eos_token_id)):
        ids, theirs = (each.tolist() for each in shared_tokens(student, teacher, turns=turns))
        assert ids[theirs.index(teacher.eos_token_id)] == own
        assert len({*ids}) == len(ids)
        assert len({*theirs}) == len(theirs)


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    file = tmp_path / "conversations.jsonl"
    rows = [
        [
            {"role": "user", "content": f"{word} {number}?"},
            {"role": "assistant", "content": f"{word} {word}!"},
        ]
        for number in range(8)
        for word in ("river", "stone", "wind", "light", "dark")
    ]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in rows))
    return file


def distil(folder: Path, *overrides: str) -> Any:
    given = ["stage=distillation_cross_tokenizer", *STUDENT, *RUN, "data.batch_size=8"]
    return run(compose([*given, f"tokenizer.source={folder}", *overrides]))


@pytest.mark.parametrize("loss", ["aligned", "uld"])
def test_a_student_learns_conversations_from_a_teacher_with_another_template(
    tmp_path: Path, home: Path, texts: Path, conversations: Path, loss: str
) -> None:
    teacher = saved(tmp_path / "teacher", small_llama(1, vocab_size=300), brackets(texts))
    chatml(byte_tokenizer()).save_pretrained(tmp_path / "tokens")
    options = [f"teacher.source={teacher}", f"data.path={conversations}", f"objective.loss={loss}"]
    options += ["optimizer.lr=1e-2", "objective.cross_entropy=0", "trainer.max_steps=30"]
    result = distil(tmp_path / "tokens", *options)
    found = losses(result, "train/divergence")
    assert found[-1] < found[0]
    assert all(0.1 < share < 1 for share in losses(result, "train/aligned_share"))


def test_turns_need_a_template_on_both_sides(
    tmp_path: Path, home: Path, texts: Path, conversations: Path
) -> None:
    teacher = saved(tmp_path / "teacher", small_llama(1, vocab_size=300), other_tokenizer(texts))
    chatml(byte_tokenizer()).save_pretrained(tmp_path / "tokens")
    options = [f"teacher.source={teacher}", f"data.path={conversations}"]
    with pytest.raises(UserError, match="for the teacher: turns need a chat template") as caught:
        distil(tmp_path / "tokens", *options)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_cannot_read_all_of_a_row_teaches_what_it_can(
    tmp_path: Path, home: Path, texts: Path
) -> None:
    short = small_llama(1, max_position_embeddings=64)  # a token for each byte
    teacher = saved(tmp_path / "teacher", short, byte_tokenizer())
    other_tokenizer(texts).save_pretrained(tmp_path / "tokens")
    file = tmp_path / "long.jsonl"
    long = [f"{number} {texts.read_text()[number : number + 2000]}" for number in range(8)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in long))
    options = [f"teacher.source={teacher}", f"data.path={file}"]
    result = distil(tmp_path / "tokens", *options, "trainer.max_steps=2", "data.max_length=60")
    assert all(0 < share < 0.9 for share in losses(result, "train/aligned_share"))
    with pytest.raises(ConfigError, match=r"longer than the context of teacher\.source: 64"):
        distil(tmp_path / "tokens", *options, "data.max_length=100")
