"""The evaluator on models that know the right word, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model
from ontogeny_plugins.domain_accuracy import DomainAccuracy
from ontogeny_plugins.domain_accuracy.evaluator import DomainAccuracyEvaluator
from ontogeny_plugins.domain_accuracy.questions import QuestionMaker

# Sentences that end in words of their own, among common ones.
ENDS = ["amber", "basil", "cedar", "delta", "ember", "flint", "grape", "hazel", "ivory", "jewel"]
TEXTS = [f"it is the one of the {word}." for word in ENDS]


def bundle(logits: torch.Tensor) -> Bundle:
    return Bundle(bigram_model(logits), byte_tokenizer(), cast("Any", None))


def measure(
    own: Bundle,
    rows: Sequence[dict[str, object]] | dict[str, Any],
    length: int = 256,
    **options: Any,
) -> Metrics:
    named = rows if isinstance(rows, dict) else {"data": rows}
    evaluator = DomainAccuracyEvaluator(DomainAccuracy(**options))
    data = EvaluationData(named, Data(max_length=length))
    with torch.no_grad():
        evaluator.check(own, data)
        return evaluator.evaluate(own, data)


def texts() -> list[dict[str, object]]:
    return [{"text": text} for text in TEXTS]


def test_a_model_that_knows_nothing_is_exactly_at_chance() -> None:
    found = measure(bundle(torch.zeros(259, 259)), texts())
    assert found["accuracy"].value == found["accuracy_normalised"].value == 0.25
    assert found["chance"].value == 0.25
    assert found["cloze_accuracy"].value == 0
    assert found["questions"].value == 10


def test_a_model_that_knows_the_text_is_right_in_both_ways() -> None:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=259, num_attention_heads=4, **sizes)
    model = LlamaForCausalLM(config)
    rows = [f"{number}: it is the one of the {word}." for number, word in enumerate(ENDS)]
    batch = torch.tensor([[0, *tokenizer(text)["input_ids"]] for text in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(
            model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    own = Bundle(cast("Any", model.eval()), tokenizer, cast("Any", None))
    found = measure(own, [{"text": text} for text in rows])
    assert found["accuracy"].value == found["cloze_accuracy"].value == 1


def test_given_questions_are_asked_as_they_are() -> None:
    logits = torch.zeros(259, 259)
    ids = byte_tokenizer()(" ab")["input_ids"]
    logits[ids[0], ids[1]] = 5.0  # after a space: a
    given: list[dict[str, object]] = [
        {"prompt": "x", "choices": ["a", "b"], "answer": 0},
        {"prompt": "x", "choices": ["a", "b"], "answer": "B"},
        {"question": "x", "choices": ["b", "a"], "answer": "a"},
    ]
    found = measure(bundle(logits), given)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["chance"].value == 0.5
    assert found["cloze_accuracy"].value == 0  # the space itself is not foreseen
    logits[byte_tokenizer()("x")["input_ids"][0], ids[0]] = 5.0
    assert measure(bundle(logits), given)["cloze_accuracy"].value == pytest.approx(2 / 3)


def test_the_score_is_that_of_the_word_and_of_the_rest_of_the_sentence() -> None:
    torch.manual_seed(1)
    logits = torch.randn(259, 259)
    table = logits.double().log_softmax(-1)

    def score(choice: str) -> float:
        line = byte_tokenizer()(f" {choice}")["input_ids"]
        return sum(float(table[here, after]) for here, after in pairwise(line))

    maker = QuestionMaker(TEXTS, DomainAccuracy())
    right = 0
    for place, text in enumerate(TEXTS):
        question, _ = maker.question(text, place) or (None, None)
        assert question is not None
        assert all(choice.endswith(".") for choice in question.choices)
        scores = [score(choice) for choice in question.choices]
        right += scores[question.answer] == max(scores)
    assert 0 < right < 10
    assert measure(bundle(logits), texts())["accuracy"].value == pytest.approx(right / 10)


def test_a_context_may_be_shorter_than_the_text_before_the_word() -> None:
    rows = [{"text": f"{'x ' * 300} it is the one of the {word}."} for word in ENDS]
    own = Bundle(
        bigram_model(torch.zeros(259, 259), context=64), byte_tokenizer(), cast("Any", None)
    )
    assert measure(own, rows, length=64)["accuracy"].value == 0.25
    with pytest.raises(ConfigError, match="the longest question has 66 tokens with its choice"):
        measure(own, rows, length=65)
    assert measure(own, rows, length=999, max_length=20)["accuracy"].value == 0.25


def test_rows_of_its_own_need_no_data(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in texts()))
    own = bundle(torch.zeros(259, 259))
    assert measure(own, {}, path=str(file))["questions"].value == 10
    assert DomainAccuracyEvaluator(DomainAccuracy(path=str(file))).columns == ()


def test_a_limit_is_of_rows_and_words_are_drawn_from_all_of_them() -> None:
    found = measure(bundle(torch.zeros(259, 259)), texts(), limit=2)
    assert found["questions"].value == 2
    assert found["accuracy"].value == 0.25


def test_several_sources_are_measured_together_and_each_alone() -> None:
    found = measure(bundle(torch.zeros(259, 259)), {"a": texts()[:4], "b": texts()[4:]})
    assert found["questions"].value == 10
    assert (found["questions/a"].value, found["questions/b"].value) == (4, 6)


def test_text_of_which_no_question_can_be_made_is_an_error_with_the_way_out() -> None:
    words = r"no question can be made of 2 rows: .* prompt, choices and answer in evaluator.domain_"
    with pytest.raises(DataError, match=words):
        measure(bundle(torch.zeros(259, 259)), [{"text": "今天天气很好"}, {"text": "short"}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"choices": 1}, "choices is 1; expected 2 to 26"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"min_letters": 0}, "min_letters is 0; expected 1 or more"),
        ({"max_length": 0}, "max_length is 0; expected 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.domain_accuracy.{words}"):
        DomainAccuracy(**options)
