"""Questions made out of text: what is asked, and what is offered."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from typing import Any, cast

import numpy as np
import pytest

from ontogeny_plugins.domain_accuracy import DomainAccuracy
from ontogeny_plugins.domain_accuracy.questions import QuestionMaker, gaps_of
from ontogeny_plugins.domain_accuracy.words import Vocabulary, vocabulary_of, words


def vocabulary(*content: str) -> Vocabulary:
    return Vocabulary(cast("Any", None), frozenset(content))


@pytest.fixture(scope="module")
def glosses() -> list[str]:
    file = files("ontogeny_plugins.demo").joinpath("data/domain_test.jsonl.gz")
    with file.open("rb") as packed, gzip.open(packed, "rt") as lines:
        return [json.loads(line)["text"] for line in lines]


def test_words_are_letters_of_any_script_with_hyphens_inside() -> None:
    assert list(words("Don't re-use 3 Ünïcödé-Wörter, it\u2019s x2y!")) == [
        *("Don't", "re-use", "Ünïcödé-Wörter", "it\u2019s", "x", "y")
    ]


def test_content_words_are_long_enough_and_not_among_the_commonest() -> None:
    found = vocabulary_of(["the cell and the cell and the nucleus", "The membrane and xyz"], 4)
    # Of 12 running words the (4) and and (3) are more than half; cell stays, xyz is too short.
    assert found.content == {"cell", "nucleus", "membrane"}
    assert found.is_content("Nucleus")
    assert found.counts["the"] == 4


def test_the_last_content_word_of_each_sentence_is_asked_for() -> None:
    known = vocabulary("stone", "river", "mill", "corn")
    text = "The very old river ran past the mill of it. Nobody there had ground any corn."
    gaps = list(gaps_of(text, known))
    assert [(gap.word, gap.after) for gap in gaps] == [("mill", " of it."), ("corn", ".")]
    assert gaps[0].before == "The very old river ran past the "
    assert gaps[1].before.endswith("Nobody there had ground any ")


def test_a_word_that_stood_there_before_is_not_asked_for_nor_one_after_too_few_words() -> None:
    known = vocabulary("stone", "river", "mill", "corn")
    assert [gap.word for gap in gaps_of("A river is no big river at all.", known)] == []
    assert [gap.word for gap in gaps_of("Corn is here. The wide and old stone", known)] == ["stone"]
    repeated = "One two three four mill. One two three four mill."
    assert len(list(gaps_of(repeated, known))) == 1


def test_every_gloss_gives_a_question_with_its_own_word_among_others(glosses: list[str]) -> None:
    options = DomainAccuracy(choices=5)
    maker = QuestionMaker(glosses, options)
    made = 0
    for place, text in enumerate(glosses):
        found = maker.question(text, place)
        if found is None:
            continue
        made += 1
        question, word = found
        assert len(set(question.choices)) == 5
        assert text.startswith(question.context + question.choices[question.answer])
        assert question.choices[question.answer].startswith(word)
        assert maker.vocabulary.is_content(word)
        wrong = [each for each in question.choices if next(words(each)) != word]
        assert len(wrong) == 4
        assert all(next(words(each)).lower() not in text.lower().split() for each in wrong)
    assert made > 0.9 * len(glosses)


def test_wrong_words_are_about_as_frequent_and_end_sentences_themselves(glosses: list[str]) -> None:
    maker = QuestionMaker(glosses, DomainAccuracy())
    right, wrong = [], []
    for place, text in enumerate(glosses):
        if (found := maker.question(text, place)) is not None:
            question, word = found
            counts = [
                maker.vocabulary.counts[next(words(each)).lower()] for each in question.choices
            ]
            right.append(np.log(counts.pop(question.answer)))
            wrong.append(np.mean(np.log(counts)))
            others = [next(words(each)) for each in question.choices]
            assert set(others) <= set(maker.answers)
            assert all(other[0].isupper() == word[0].isupper() for other in others)
    assert abs(np.mean(right) - np.mean(wrong)) < 0.1
    assert np.corrcoef(right, wrong)[0, 1] > 0.9


def test_the_seed_decides_what_is_asked(glosses: list[str]) -> None:
    def made(seed: int) -> list[object]:
        maker = QuestionMaker(glosses, DomainAccuracy(seed=seed))
        return [maker.question(text, place) for place, text in enumerate(glosses[:30])]

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_the_place_of_the_right_word_is_drawn_evenly(glosses: list[str]) -> None:
    maker = QuestionMaker(glosses, DomainAccuracy())
    found = [maker.question(text, place) for place, text in enumerate(glosses)]
    places = np.bincount([each[0].answer for each in found if each is not None])
    assert len(places) == 4
    assert places.min() > 0.18 * places.sum()


def test_text_without_enough_words_gives_no_question() -> None:
    maker = QuestionMaker(["Only one two three sentence."], DomainAccuracy())
    assert maker.question("Only one two three sentence.", 0) is None
