"""Multiple choice on models whose answers are known."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch

from ontogeny import DataError
from ontogeny.adapter import Bundle
from ontogeny.choices import Answered, Question, answer, answer_index, choice_texts, pairs_of
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model


def ids(text: str) -> list[int]:
    return cast("list[int]", byte_tokenizer()(text)["input_ids"])


def bundle(table: dict[str, dict[str, float]]) -> Bundle:
    """Return a model with these probabilities of a letter after a letter; the rest is shared."""
    logits = torch.zeros(259, 259)
    for here, after in table.items():
        rest = (1 - sum(after.values())) / (259 - len(after))
        logits[ids(here)[0]] = math.log(rest)
        for letter, probability in after.items():
            logits[ids(here)[0], ids(letter)[0]] = math.log(probability)
    return Bundle(bigram_model(logits), byte_tokenizer(), cast("Any", None))


def ask(own: Bundle, *questions: Question, **options: Any) -> Answered:
    with torch.no_grad():
        return answer(own, questions, batch_size=3, **options)


def test_the_likeliest_choice_is_the_answer() -> None:
    own = bundle({"x": {"a": 0.6, "b": 0.3}, "y": {"a": 0.1, "b": 0.8}})
    found = ask(
        own,
        Question("x", ("a", "b"), 0),
        Question("y", ("a", "b"), 0),
        Question("y", ("a", "b"), 1),
    )
    assert found.right_N.tolist() == [1, 0, 1]
    assert found.chance_N.tolist() == [0.5] * 3


def test_the_normalised_score_is_for_each_byte_or_token() -> None:
    # log p: a -1.2, but bb -0.51 - 1.2: less likely as a whole, likelier for each byte.
    own = bundle({"x": {"a": 0.3, "b": 0.6}, "b": {"b": 0.3}})
    found = ask(own, Question("x", ("a", "bb"), 1))
    assert found.right_N.tolist() == [0]
    assert found.right_normalised_N.tolist() == [1]
    # Three bytes are three tokens here, and one letter: per token as per byte.
    assert ask(own, Question("x", ("a", "bb"), 1), per_token=True).right_normalised_N.tolist() == [
        1
    ]


def test_bytes_are_those_of_the_choice_without_the_space_before_it() -> None:
    # " a": 2 log 0.5 over 1 byte; " bbb": 4 log 0.5 over 3 bytes, which is more for each of them.
    own = bundle({"x": {" ": 0.5}, " ": {"a": 0.5, "b": 0.5 - 1e-9}, "b": {"b": 0.5}})
    found = ask(own, Question("x", (" a", " bbb"), 1))
    assert found.right_N.tolist() == [0]
    assert found.right_normalised_N.tolist() == [1]


def test_a_model_that_knows_nothing_is_exactly_at_chance() -> None:
    own = bundle({})
    questions = [Question("x", ("a", "b", "c", "d"), index % 3) for index in range(10)]
    found = ask(own, *questions)
    assert found.right_N.tolist() == [0.25] * 10
    metrics = found.metrics(np.arange(10))
    assert metrics["accuracy"].value == metrics["accuracy_normalised"].value == 0.25
    assert metrics["chance"].value == 0.25


def test_metrics_of_some_questions_are_those_questions() -> None:
    own = bundle({"x": {"a": 0.6, "b": 0.3}})
    found = ask(own, Question("x", ("a", "b"), 0), Question("x", ("a", "b", "c"), 1))
    assert found.metrics(np.array([0]))["accuracy"].value == 1
    assert found.metrics(np.array([1]))["accuracy"].value == 0
    assert found.metrics(np.array([1]))["chance"].value == pytest.approx(1 / 3)


def test_a_context_loses_its_beginning_where_it_does_not_fit_with_the_longest_choice() -> None:
    question = Question("abcdefgh", ("x", "xyz"), 0)
    pairs = pairs_of(byte_tokenizer(), [question], 6)
    assert pairs == [(ids("efgh"), ids("x")), (ids("efgh"), ids("xyz"))]
    assert pairs_of(byte_tokenizer(), [question], 2)[0] == (ids("h"), ids("x"))
    assert pairs_of(byte_tokenizer(), [question])[0] == ([0, *ids("abcdefgh")], ids("x"))


@pytest.mark.parametrize(
    ("given", "expected"), [(0, 0), (2, 2), ("A", 0), (" c ", 2), ("green", 1), (" green", 1)]
)
def test_an_answer_is_an_index_a_letter_or_a_text(given: object, expected: int) -> None:
    assert answer_index({"choices": ["red", "green", "blue"], "answer": given}) == expected


def test_a_letter_that_is_itself_a_choice_is_that_choice() -> None:
    assert answer_index({"choices": ["B", "A"], "answer": "A"}) == 1


@pytest.mark.parametrize("given", [3, -1, True, "D", "yellow", "", 1.0, None])
def test_an_answer_that_is_none_of_the_choices_is_an_error(given: object) -> None:
    words = (
        r"answer is .*; expected an index from 0 to 2, a letter from A to C, or one of the choic"
    )
    with pytest.raises(DataError, match=words):
        answer_index({"choices": ["red", "green", "blue"], "answer": given})


@pytest.mark.parametrize("given", [["only one"], "red green", ["red", " "], [], ["x"] * 27])
def test_choices_that_cannot_be_chosen_from_are_an_error(given: object) -> None:
    with pytest.raises(DataError, match="expected a list of 2 to 26 texts, none empty"):
        choice_texts({"choices": given})
