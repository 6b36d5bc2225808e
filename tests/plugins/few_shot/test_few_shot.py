"""In-context learning on toy tasks whose accuracy is known, and against the harness."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model
from ontogeny_plugins.few_shot import FewShot
from ontogeny_plugins.few_shot.contexts import Item, contexts_of
from ontogeny_plugins.few_shot.evaluator import FewShotEvaluator

BARE: dict[str, Any] = {"question": "{question}", "before_answer": "", "between": "\n"}
Rows = Sequence[dict[str, object]]


def ids(text: str) -> list[int]:
    return cast("list[int]", byte_tokenizer()(text)["input_ids"])


def bundle(table: dict[str, str]) -> Bundle:
    """Return a model that takes a letter to the one that the table says."""
    logits = torch.zeros(259, 259)
    for here, after in table.items():
        logits[ids(here)[0], ids(after)[0]] = 20.0
    return Bundle(bigram_model(logits), byte_tokenizer(), cast("Any", None))


def measure(own: Bundle, rows: Rows | dict[str, Rows], **options: Any) -> Metrics:
    named = rows if isinstance(rows, dict) else {"data": rows}
    evaluator = FewShotEvaluator(FewShot(**options))
    data = EvaluationData(named, Data())
    with torch.no_grad():
        evaluator.check(own, data)
        return evaluator.evaluate(own, data)


def capitals(wrong: int) -> list[dict[str, object]]:
    """Return ten questions, each the small letter of a capital; some with a wrong key."""
    rows: list[dict[str, object]] = []
    for index, letter in enumerate("ABCDEFGHIJ"):
        others = [other for other in "abcdefghij" if other != letter.lower()][:3]
        choices = [*others[: index % 4], letter.lower(), *others[index % 4 :]]
        answer = (index + 1) % 4 if index < wrong else index % 4
        rows.append({"question": f"{index}{letter}", "choices": choices, "answer": answer})
    return rows


KNOWS = {letter: letter.lower() for letter in "ABCDEFGHIJ"}


@pytest.mark.parametrize("wrong", [0, 3, 10])
@pytest.mark.parametrize("k", [0, 4])
def test_a_task_with_a_known_answer_gives_the_known_accuracy(wrong: int, k: int) -> None:
    found = measure(bundle(KNOWS), capitals(wrong), k=k, **BARE)
    assert found["accuracy"].value == found["accuracy_normalised"].value == 1 - wrong / 10
    assert found["chance"].value == 0.25


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    found = measure(bundle({}), capitals(0), k=2, **BARE)
    assert found["accuracy"].value == 0.25
    assert found["accuracy"].low == pytest.approx(0.0809, abs=1e-4)  # Wilson, 2.5 of 10


def test_written_answers_are_right_when_they_are_the_same_text() -> None:
    rows: list[dict[str, object]] = [
        {"question": "A", "answer": "a"},
        {"question": "B", "answer": "b"},
        {"question": "C", "answer": "x"},
    ]
    table = {**KNOWS, "a": "\n", "b": "\n", "c": "\n"}
    found = measure(bundle(table), rows, k=1, **BARE)
    assert list(found) == ["exact_match"]
    assert found["exact_match"].value == pytest.approx(2 / 3)


def test_prompts_with_completions_and_numbers_as_answers_are_questions_too() -> None:
    table = {**KNOWS, "1": "7", "7": "\n", "a": "\n"}
    assert (
        measure(bundle(table), [{"prompt": "A", "completion": "a"}], k=0, **BARE)[
            "exact_match"
        ].value
        == 1
    )
    assert (
        measure(bundle(table), [{"question": "1", "answer": 7}], k=0, **BARE)["exact_match"].value
        == 1
    )


def counting_bundle() -> Bundle:
    """Return a model that says again what stood in its context most often.

    Its attention looks at all tokens alike and hands on which ones they were.
    """
    width = 260  # a row for each token, and an even number of them
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=width,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=width,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(259, width))
        model.lm_head.weight.copy_(torch.eye(259, width))
        attention.v_proj.weight.copy_(torch.eye(width))
        attention.o_proj.weight.copy_(10 * torch.eye(width))
    return Bundle(cast("Any", model), byte_tokenizer(), cast("Any", None))


def test_a_model_that_learns_in_context_is_right_with_demonstrations_and_at_chance_without() -> (
    None
):
    rows: list[dict[str, object]] = [
        {"question": letter, "choices": ["r", "s"], "answer": "r"} for letter in "abcdef"
    ]
    values = [measure(counting_bundle(), rows, k=k, **BARE)["accuracy"].value for k in (0, 1, 3)]
    assert values == [0.5, 1, 1]


def test_demonstrations_stand_before_the_question_as_the_templates_say() -> None:
    two = [Item("q", "r", (), 0), Item("z", "y", (), 0)]
    assert contexts_of(two, [two, two], FewShot(k=1)) == [
        "Question: z\nAnswer: y\n\nQuestion: q\nAnswer:",
        "Question: q\nAnswer: r\n\nQuestion: z\nAnswer:",
    ]


def items(count: int) -> list[Item]:
    return [Item(f"question {number}", str(number), (), 0) for number in range(count)]


def test_every_question_has_demonstrations_of_its_own_drawn_by_the_seed() -> None:
    options = FewShot(k=3, **BARE)
    pools = [items(20)] * 20
    contexts = contexts_of(items(20), pools, options)
    assert contexts == contexts_of(items(20), pools, options)
    assert contexts != contexts_of(items(20), pools, FewShot(k=3, seed=1, **BARE))
    shown = [context.split("\n")[:-1] for context in contexts]
    assert len({tuple(each) for each in shown}) > 15
    for number, demonstrations in enumerate(shown):
        assert len(set(demonstrations)) == 3
        assert f"question {number}{number}" not in demonstrations  # never its own answer


def test_demonstrations_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "shown.jsonl"
    rows = [{"question": f"Z{number}", "answer": "z"} for number in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"question": "A", "answer": "a"}]
    with pytest.raises(DataError, match="k is 2, but there are 0 other rows to draw"):
        measure(bundle(KNOWS), asked, k=2, **BARE)
    options = FewShot(k=2, demonstrations=str(file), **BARE)
    evaluator = FewShotEvaluator(options)
    _, contexts = evaluator._questions(
        evaluator._rows(EvaluationData({"data": asked}, Data())),
        EvaluationData({"data": asked}, Data()),
    )
    lines = contexts[0].split("\n")
    assert len(lines) == 3
    assert set(lines[:2]) <= {"Z0z", "Z1z", "Z2z"}


def test_a_limit_is_of_the_questions_and_not_of_what_is_shown_before_them() -> None:
    found = measure(bundle(KNOWS), capitals(0), k=5, limit=2, **BARE)
    assert found["accuracy"].value == 1
    assert found["accuracy"].low == pytest.approx(0.3424, abs=1e-4)  # Wilson, 2 of 2


def test_rows_of_its_own_need_no_data(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in capitals(3)))
    assert measure(bundle(KNOWS), {}, path=str(file), k=1, **BARE)["accuracy"].value == 0.7
    assert FewShotEvaluator(FewShot(path=str(file))).columns == ()


def test_several_sources_are_measured_together_and_each_alone() -> None:
    found = measure(bundle(KNOWS), {"a": capitals(0), "b": capitals(10)}, k=0, **BARE)
    values = {name: metric.value for name, metric in found.items() if "accuracy" in name}
    assert values["accuracy"] == 0.5
    assert (values["accuracy/a"], values["accuracy/b"]) == (1, 0)


def test_demonstrations_come_from_the_source_of_the_question() -> None:
    sources: dict[str, Rows] = {
        name: [{"question": f"{name}{number}?", "answer": name} for number in range(9)]
        for name in ("good", "bad")
    }
    evaluator, data = FewShotEvaluator(FewShot(k=4, **BARE)), EvaluationData(sources, Data())
    rows = evaluator._rows(data)
    _, contexts = evaluator._questions(rows, data)
    for source, context in zip(rows.sources, contexts, strict=True):
        assert all(line.startswith(source) for line in context.split("\n"))


def test_log_likelihoods_and_accuracies_are_those_of_lm_evaluation_harness() -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is an optional extra: ontogeny[lm_eval]")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from ontogeny.continuation_scores import score_continuations, tokens_of

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, num_attention_heads=2, **sizes)).eval()
    tokenizer = byte_tokenizer()
    pairs = [
        ("The river ran", " past an old mill"),
        ("Answer: ", "yes"),
        ("Ünïcödé", " 日本"),
        ("x", "y"),
    ]
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, add_bos_token=False)
    requests = [
        Instance("loglikelihood", {}, (f"<|endoftext|>{head}", tail), index)
        for index, (head, tail) in enumerate(pairs)
    ]
    expected = harness.loglikelihood(requests, disable_tqdm=True)
    own = Bundle(cast("Any", model), tokenizer, cast("Any", None))
    with torch.no_grad():
        found = score_continuations(own, [tokens_of(tokenizer, *pair) for pair in pairs], 3)
    for index, (log_prob, is_greedy) in enumerate(expected):
        assert math.isclose(found.log_probs_N[index], log_prob, rel_tol=1e-5)
        assert found.is_likeliest_N[index] == is_greedy


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": 3, "answer": "a"}], "the question is 3; expected text"),
        ([{"question": "q", "answer": ["a"]}], r"the answer to 'q' is \['a'\]; expected text or"),
        ([{"question": "q", "answer": " "}], "the answer to 'q' is ' '; expected text or a number"),
        (
            [
                {"question": "q", "answer": "a"},
                {"question": "q", "choices": ["a", "b"], "answer": 0},
            ],
            "some rows have choices and some have none",
        ),
        ([{"question": "q", "choices": ["a", "b"], "answer": 5}], "answer is 5; expected an index"),
        ([{"text": "only text"}], "a row to evaluate on, of source data: no column 'question'"),
    ],
)
def test_rows_that_ask_nothing_are_an_error(rows: Rows, words: str) -> None:
    with pytest.raises(DataError, match=words):
        measure(bundle(KNOWS), rows, k=0)


def test_contexts_that_are_too_long_are_an_error_before_anything_is_scored() -> None:
    rows = [{**row, "question": str(row["question"]) * 60} for row in capitals(0)]
    words = r"evaluator.few_shot.k is 9: the longest question has .* tokens with its choice"
    with pytest.raises(ConfigError, match=words):
        measure(bundle(KNOWS), rows, k=9)
    written: list[dict[str, object]] = [{"question": "x" * 600, "answer": "y"}]
    with pytest.raises(ConfigError, match=r"evaluator.few_shot.max_tokens is 32 and the longest"):
        measure(bundle(KNOWS), written, k=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": -1}, "k is -1; expected 0 or more"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"normalise": "letters"}, "normalise is 'letters'; expected one of bytes, tokens"),
        ({"question": "Q:"}, "question is 'Q:'; expected a text with {question} in it"),
        ({"between": ""}, "between is empty"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.few_shot.{words}"):
        FewShot(**options)
