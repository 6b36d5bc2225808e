"""What is trained is what a served model is asked to write, whatever the chat template."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ontogeny.errors import RowError
from ontogeny.objective import Example, Row
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import SFT
from ontogeny_plugins.sft.named_templates import give_template
from ontogeny_plugins.sft.objective import SFTObjective

TRL = Path(str(find_spec("trl").origin)).parent / "chat_templates"
SPECIAL = re.compile("<[|\uff5c][^|<>]*[|\uff5c]>|<(?:start|end)_of_turn>|</s>")
SINGLE = [("user", "Hi there."), ("assistant", "Hello.\n\nHow are you?")]
SEVERAL = [*SINGLE, ("user", "Well!"), ("assistant", "Good 🙂")]
SYSTEM = [("system", "Be brief."), *SEVERAL]


def turns(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def with_template(name: str) -> Any:
    """Return a tokenizer with a template of TRL's collection and the special tokens in it."""
    text = (TRL / f"{name}.jinja").read_text()
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(sorted(set(SPECIAL.findall(text))), special_tokens=True)
    tokenizer.eos_token = "</s>"
    tokenizer.chat_template = text
    return tokenizer


def example(row: Row, tokenizer: PreTrainedTokenizerBase, **options: object) -> Example:
    (made,) = SFTObjective(SFT(**options)).prepare([row], tokenizer)
    return made


def whole(made: Example) -> tuple[list[int], list[bool]]:
    """Return all tokens of an example, and which of them are trained."""
    ids = [*made["input_ids"].tolist(), int(made["labels"][-1])]
    return ids, [False, *(made["labels"] != -100).tolist()]


def trained(made: Example, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return each run of trained tokens as text."""
    ids, flags = whole(made)
    edges = np.flatnonzero(np.diff([0, *flags, 0])).reshape(-1, 2)
    return [str(tokenizer.decode(ids[start:stop])) for start, stop in edges]


def merging_tokenizer() -> PreTrainedTokenizerBase:
    """Return a byte-level BPE that merges a space with the word behind it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" yes yes no no Answer: yes Answer: no\n\n\n\n"] * 20, words)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")


# ------------------------------------------------------------------------------- with a template


@pytest.mark.parametrize("talk", [SINGLE, SEVERAL], ids=["single", "several"])
@pytest.mark.parametrize(
    "name",
    [
        *("cohere", "cohere2", "gemma", "gemma3", "lfm2", "lfm2_v2", "llama3"),
        *("qwen2_5_vl", "qwen3_vl", "qwen3_instruct_2507"),
    ],
)
def test_a_template_without_marks_has_the_mask_of_its_marked_twin(
    name: str, talk: list[tuple[str, str]]
) -> None:
    plain, marked = with_template(name), with_template(f"{name}_training")
    assert "{%- generation" not in plain.chat_template
    expected = marked.apply_chat_template(
        turns(*talk), return_dict=True, return_assistant_tokens_mask=True
    )
    mask = np.array(expected["assistant_masks"], bool)
    # Some of TRL's marks go on to the line break behind the token that stops a served model.
    stops = np.isin(expected["input_ids"], list(marked.added_tokens_decoder))
    mask[1:] &= ~(mask[:-1] & stops[:-1])
    last = int(np.flatnonzero(mask)[-1]) + 1
    ids, flags = whole(example({"messages": turns(*talk)}, plain))
    assert ids == expected["input_ids"][:last]
    assert flags == mask[:last].tolist()


def test_marks_of_a_template_are_followed() -> None:
    tokenizer = byte_tokenizer()
    made = example({"messages": turns(*SYSTEM)}, tokenizer)
    ends = f"{tokenizer.eos_token}"
    assert trained(made, tokenizer) == [f"Hello.\n\nHow are you?{ends}", f"Good 🙂{ends}"]


def test_a_mark_that_leaves_out_the_end_of_the_turn_is_extended_by_it() -> None:
    tokenizer = byte_tokenizer()
    mark = "{% generation %}{{ message['content'] }}{% endgeneration %}{{ eos_token }}"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}", mark
    )
    made = example({"messages": turns(*SINGLE)}, tokenizer)
    assert trained(made, tokenizer) == [f"Hello.\n\nHow are you?{tokenizer.eos_token}"]


def test_thinking_that_is_only_written_into_the_last_turn_is_trained_there_alone() -> None:
    tokenizer = with_template("qwen3")
    made = example({"messages": turns(*SEVERAL)}, tokenizer)
    assert trained(made, tokenizer) == [
        "Hello.\n\nHow are you?<|im_end|>",
        "<think>\n\n</think>\n\nGood 🙂<|im_end|>",
    ]


def test_earlier_turns_may_end_with_another_token_than_the_last() -> None:
    tokenizer = with_template("gptoss")
    made = example({"messages": turns(*SEVERAL)}, tokenizer)
    assert trained(made, tokenizer) == [
        "<|channel|>final<|message|>Hello.\n\nHow are you?<|end|>",
        "<|channel|>final<|message|>Good 🙂<|return|>",
    ]


def test_nothing_is_trained_after_the_token_that_stops_a_served_model() -> None:
    tokenizer = with_template("phi3")  # writes <|end|>, a line break and </s>
    made = example({"messages": turns(*SINGLE)}, tokenizer)
    assert trained(made, tokenizer) == ["Hello.\n\nHow are you?<|end|>"]
    assert tokenizer.decode(whole(made)[0]).endswith("<|end|>")


def test_a_template_that_ends_turns_with_no_token_gets_the_eos_token_at_the_end() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    made = example({"messages": turns(*SEVERAL)}, tokenizer)
    last = f"Good 🙂\n{tokenizer.eos_token}"
    assert trained(made, tokenizer) == ["Hello.\n\nHow are you?\n", last]


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("assistant", ["Hello.\n\nHow are you?<|im_end|>", "Good 🙂<|im_end|>"]),
        ("last", ["Good 🙂<|im_end|>"]),
    ],
)
def test_all_answers_are_trained_or_the_last_one(loss_on: str, expected: list[str]) -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    made = example({"messages": turns(*SYSTEM)}, tokenizer, loss_on=loss_on)
    assert trained(made, tokenizer) == expected


def test_every_token_is_trained_if_that_is_wanted() -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    made = example({"messages": turns(*SINGLE)}, tokenizer, loss_on="all")
    text = tokenizer.apply_chat_template(turns(*SINGLE), tokenize=False)
    assert (made["labels"] != -100).all()
    assert tokenizer.decode(whole(made)[0]) == text.rstrip()


def test_answers_in_a_prompt_are_not_trained() -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    row = {"prompt": turns(*SEVERAL[:3]), "completion": turns(*SEVERAL[3:])}
    assert trained(example(row, tokenizer), tokenizer) == ["Good 🙂<|im_end|>"]


def test_a_prompt_and_a_completion_are_turns_where_there_is_a_template() -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    text, talk = (
        {"prompt": "Why?", "completion": "So."},
        turns(("user", "Why?"), ("assistant", "So.")),
    )
    one, other = (whole(example(row, tokenizer)) for row in (text, {"messages": talk}))
    assert one == other


def test_calls_of_tools_are_trained_and_their_results_are_not() -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    messages = [
        *turns(("user", "1 + 2?")),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        *turns(("tool", "3"), ("assistant", "It is 3.")),
    ]
    row = {"messages": messages, "tools": [{"name": "add", "parameters": {}}]}
    called = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>'
    made = example(row, tokenizer)
    assert trained(made, tokenizer) == [called, "It is 3.<|im_end|>"]
    assert '<tools>\n{"name": "add", "parameters": {}}\n</tools>' in tokenizer.decode(
        whole(made)[0]
    )


def test_tools_may_be_json_in_a_text_and_templates_take_arguments_from_the_row() -> None:
    tokenizer = with_template("qwen3")
    row = {"messages": turns(*SINGLE), "tools": '[{"name": "add"}]'}
    listed = {**row, "tools": [{"name": "add"}]}
    assert whole(example(row, tokenizer)) == whole(example(listed, tokenizer))
    quiet = {**row, "chat_template_kwargs": {"enable_thinking": False}}
    assert trained(example(quiet, tokenizer), tokenizer) == ["Hello.\n\nHow are you?<|im_end|>"]


# ------------------------------------------------------------------------------------ bare text


def test_without_a_template_a_prompt_is_followed_by_its_completion_and_the_end() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    made = example({"prompt": "2 + 2 =", "completion": " 4"}, tokenizer)
    assert whole(made)[0] == [*tokenizer("2 + 2 = 4")["input_ids"], tokenizer.eos_token_id]
    assert trained(made, tokenizer) == [f" 4{tokenizer.eos_token}"]


def test_a_completion_that_ends_with_the_eos_token_gets_no_second_one() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    plain = example({"prompt": "a", "completion": "b"}, tokenizer)
    ended = example({"prompt": "a", "completion": f"b{tokenizer.eos_token}"}, tokenizer)
    assert whole(plain) == whole(ended)


def test_plain_text_is_trained_whole() -> None:
    tokenizer = byte_tokenizer()
    made = example({"text": "abc"}, tokenizer)
    assert trained(made, tokenizer) == [f"bc{tokenizer.eos_token}"]  # nothing stands before the a


@pytest.mark.parametrize("prompt", ["Answer:", "Answer: ", "Answer: ye", "\n", "\n\n"])
def test_a_served_prompt_has_the_tokens_of_the_trained_one_even_where_they_would_merge(
    prompt: str,
) -> None:
    tokenizer = merging_tokenizer()
    served = tokenizer(prompt)["input_ids"]
    for completion in ("yes", " yes", "s", "\n\nno"):
        ids, flags = whole(example({"prompt": prompt, "completion": completion}, tokenizer))
        assert ids[: len(served)] == served
        assert flags == [False] * len(served) + [True] * (len(ids) - len(served))
        assert tokenizer.decode(ids) == f"{prompt}{completion}</s>"


def test_tokens_that_would_merge_with_the_beginning_of_an_answer_are_kept_apart_in_every_turn() -> (
    None
):
    tokenizer = merging_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }} Answer: "
        "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
    )
    talk = turns(("user", "no?"), ("assistant", "yes"), ("user", "no no?"), ("assistant", "yes no"))
    made = example({"messages": talk}, tokenizer)
    assert trained(made, tokenizer) == ["yes</s>", "yes no</s>"]
    served = tokenizer(tokenizer.apply_chat_template(talk[:1], tokenize=False))["input_ids"]
    assert whole(made)[0][: len(served)] == served


def test_what_the_tokenizer_puts_before_a_text_stands_before_bare_text_alone() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = merging_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $0", special_tokens=[("<s>", 1)]
    )
    bare = example({"prompt": "Answer:", "completion": " yes"}, tokenizer)
    assert whole(bare)[0][:-2] == tokenizer("Answer:")["input_ids"]
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    chat = example({"prompt": "Answer:", "completion": " yes"}, tokenizer)
    assert whole(chat)[0] == whole(bare)[0][1:]


# --------------------------------------------------------------------------------------- bad rows


def refused(row: Row, tokenizer: PreTrainedTokenizerBase, **options: object) -> str:
    with pytest.raises(RowError) as caught:
        list(SFTObjective(SFT(**options)).prepare([{"text": "good"}, row], tokenizer))
    assert caught.value.index == 1
    return caught.value.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": turns(*SINGLE, ("user", "And?"))}, "ends with a turn of the user"),
        ({"messages": turns(("user", "Hi"), ("bot", "Yes"))}, "turn 2 has the role 'bot'"),
        ({"messages": turns(("user", "Hi"), ("assistant", " "))}, "turn 2, of the assistant, is e"),
        ({"prompt": "Hi", "completion": ""}, "the completion is empty: no token of it can be tra"),
        ({"messages": turns(("assistant", "Hi"))}, "begins with the assistant"),
        ({"messages": turns(*SINGLE), "tools": "[{"}, r"tools: '\[{' is no JSON"),
        ({"messages": turns(*SINGLE), "tools": '{"a": 1}'}, "expected a list of JSON schemas"),
        ({"messages": turns(*SINGLE), "chat_template_kwargs": "[]"}, r"kwargs: \[\] is no object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_cannot_be_trained_on_is_told_why(row: Row, reason: str) -> None:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    assert re.search(reason, refused(row, tokenizer))


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        ("gemma", {"messages": turns(*SYSTEM)}, "cannot render it: System role not supported"),
        ("llama3", {"messages": turns(*SINGLE), "tools": [{"name": "f"}]}, "leaves out the tools"),
        ("smolvlm", {"messages": turns(*SINGLE)}, "leaves out words of turn 1, of the user"),
        ("deepseek_r1_distill", {"messages": turns(*SINGLE)}, r"asks for turn 2 with '<think>\\n'"),
        (
            "deepseek_r1_distill",
            {"messages": turns(*SEVERAL)},
            "train on objective.loss_on=last, or take another stage.chat_template",
        ),
        (
            "qwen3",
            {"messages": turns(SINGLE[0], ("assistant", "<think>So.</think>Yes."), *SEVERAL[2:])},
            "does not write turn 2, of the assistant, as it stands once others follow",
        ),
        (
            "lfm2",
            {
                "messages": [
                    *turns(("user", "1 + 2?")),
                    {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {}}]},
                    *turns(("tool", "3"), ("assistant", "It is 3.")),
                ]
            },
            "leaves out the call of add in turn 2",
        ),
    ],
)
def test_a_template_that_does_not_fit_the_row_is_refused(
    template: str, row: Row, reason: str
) -> None:
    assert re.search(reason, refused(row, with_template(template)))


def test_turns_need_a_template() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    reason = (
        "turns need a chat template, and the tokenizer has none; take one that has (stage=sft "
        "gives it one: stage.chat_template)"
    )
    assert refused({"messages": turns(*SINGLE)}, tokenizer) == reason
    assert refused({"prompt": turns(SINGLE[0]), "completion": "Hi"}, tokenizer) == reason


def test_a_row_of_one_token_asks_for_nothing() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    assert refused({"text": "a"}, tokenizer) == "no token of it is trained"
