"""Answers as rows give them, and their comparison against SQuAD's own script."""

from __future__ import annotations

import collections
import random
import re
import string

import pytest

from ontogeny_plugins.span_qa.answers import Answer, answers_of, exact_match, word_f1

CONTEXT = "The river Rhine flows through Basel, a city."


def squad_normalise(text: str) -> str:
    """What `normalize_answer` of SQuAD 2.0's evaluation script does, step by step."""
    text = text.lower()
    text = "".join(character for character in text if character not in set(string.punctuation))
    text = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)
    return " ".join(text.split())


def squad_exact(gold: str, said: str) -> int:
    return int(squad_normalise(gold) == squad_normalise(said))


def squad_f1(gold: str, said: str) -> float:
    """What `compute_f1` of the script does."""
    gold_words, said_words = (squad_normalise(text).split() for text in (gold, said))
    common = collections.Counter(gold_words) & collections.Counter(said_words)
    same = sum(common.values())
    if len(gold_words) == 0 or len(said_words) == 0:
        return float(gold_words == said_words)
    if same == 0:
        return 0.0
    precision, recall = same / len(said_words), same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def test_scores_are_those_of_the_script_on_random_texts() -> None:
    generator = random.Random(0)
    words = ["the", "The", "a", "an", "Rhine", "rhine.", "river", "city,", "Basel", "'s", "-", "é"]

    def text() -> str:
        return " ".join(generator.choice(words) for _ in range(generator.randint(0, 5)))

    for _ in range(2000):
        said, golds = text(), [text() for _ in range(generator.randint(1, 3))]
        # The script leaves out gold answers that normalise to nothing; without any there is none.
        kept = [gold for gold in golds if squad_normalise(gold)] or [""]
        assert exact_match(said, golds) == max(squad_exact(gold, said) for gold in kept)
        assert word_f1(said, golds) == pytest.approx(max(squad_f1(gold, said) for gold in kept))


@pytest.mark.parametrize(
    ("said", "true", "exact", "f1"),
    [
        ("the Rhine", ["Rhine"], 1, 1),
        ("", [], 1, 1),
        ("Rhine", [], 0, 0),
        ("", ["Rhine"], 0, 0),
        ("river Rhine", ["Rhine"], 0, 2 / 3),
        ("Basel", ["Rhine", "Basel, a city"], 0, 2 / 3),
    ],
)
def test_scores_by_hand(said: str, true: list[str], exact: float, f1: float) -> None:
    assert exact_match(said, true) == exact
    assert word_f1(said, true) == pytest.approx(f1)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Rhine", "Basel"], "answer_start": [10, 30]},
        [{"text": "Rhine", "answer_start": 10}, {"text": "Basel", "answer_start": 30}],
    ],
)
def test_both_forms_of_squad_are_read(answers: object) -> None:
    row = {"question": "which", "context": CONTEXT, "answers": answers}
    assert answers_of(row) == [Answer("Rhine", 10), Answer("Basel", 30)]


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}])
def test_a_question_may_have_no_answer(answers: object) -> None:
    assert answers_of({"question": "which", "context": CONTEXT, "answers": answers}) == []


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"text": "Rhine", "answer_start": 90}],
            "the answer 'Rhine' is said to begin at character 90, outside the context of 44",
        ),
        (
            [{"text": "Rhine", "answer_start": 11}],
            "the answer 'Rhine' is said to begin at character 11, where the context has 'hine '",
        ),
        ([{"text": "Rhine", "answer_start": -34}], "begin at character -34"),
        ([{"text": "Rhine", "answer_start": "10"}], "answer_start is '10'; expected a number"),
        ([{"text": "Rhine"}], "answer_start is None; expected a number of characters"),
        ([{"text": "", "answer_start": 0}], "the text of an answer is ''; expected some of"),
        (["Rhine"], r"answers is \['Rhine'\]; expected a list of \{text, answer_start\}"),
        ({"text": ["a"], "answer_start": []}, "of equal length"),
        ("Rhine", "answers is 'Rhine'; expected a list"),
    ],
)
def test_an_answer_that_does_not_stand_in_its_context_is_told(
    answers: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        answers_of({"question": "which", "context": CONTEXT, "answers": answers})


@pytest.mark.parametrize("name", ["question", "context"])
def test_question_and_context_are_texts(name: str) -> None:
    row: dict[str, object] = {"question": "which", "context": CONTEXT, "answers": []}
    with pytest.raises(ValueError, match=f"{name} is '  '; expected text"):
        answers_of({**row, name: "  "})
    with pytest.raises(ValueError, match=f"{name} is 3; expected text"):
        answers_of({**row, name: 3})
