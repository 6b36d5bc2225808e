"""Every kind of instruction, followed and not followed; and most against IFEval's own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ontogeny import DataError
from ontogeny_plugins.instruction_following.constraints import (
    CHECKS,
    Constraint,
    constraints_of,
)

Case = tuple[
    str, dict[str, object], list[str], list[str]
]  # kind, arguments, followed, not followed

CASES: list[Case] = [
    ("keywords:existence", {"keywords": ["hive", "bee"]}, ["Bees in a HIVE"], ["a hive", "x"]),
    (
        "keywords:frequency",
        {"keyword": "wave", "frequency": 2, "relation": "at least"},
        ["wave Waves"],
        ["one wave"],
    ),
    (
        "keywords:frequency",
        {"keyword": "a.b", "frequency": 1, "relation": "less than"},
        ["axb"],
        ["a.b"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["oven", "flour"]},
        ["ovenware flours"],
        ["the Oven", "flour, water"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ["Qq", "quite quiet"],
        ["q"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Z", "let_frequency": 1, "let_relation": "less than"},
        ["no such letter"],
        ["a zoo"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein deutscher Satz über das Wetter von gestern."],
        ["This is an English sentence about yesterday's weather."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["One. Two!", "It is 3.14, or 2.7. Two?", "no stop at all", "Well... yes."],
        ["One. Two. Three.", "One? Two! Three", "a.\nb\nc"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none *** two\n***"],
        ["one", "one\n***\n\n***\ntwo", "one\n\ntwo"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two, three-four"],
        ["one two three", "... !"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Evening"},
        ["Dawn.\n\nEvening, then.", 'Dawn.\n\n"evening" it was'],
        ["Evening.\n\nDawn.", "Dawn.\n\nEvening.\n\nNight.", "Evening", "Dawn.\n\nevenings"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] at [time]", "[][]"],
        ["[name]", "(name) (time)"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. more", "p. s. more"],
        ["Bye.", "PS more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S more", "p.p.s. x"],
        ["P.S. more"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["N.B. x"], ["nxbx", "NB"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  * b"],
        ["* a", "* a\n* b\n- c", "** bold **\n* a"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe. So"],
        ["yes", "my answer is yes."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**both**, once for each star... *c*"],
        ["*a*", "* * and **", "a * b"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3"],
        ["Section 1\na", "SECTION 1 SECTION 2"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', " 3 "],
        ["{a: 1}", 'Here: {"a": 1}', "```\n```"],
    ),
    ("detectable_format:title", {}, ["<<My day>>\nIt was"], ["<My day>", "<<>>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******one******two******"],
        ["one", "one******one", "a******b******c", "a************b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Name a fruit."},
        ["  name a fruit. Apple"],
        ["Apple", "You said: Name a fruit."],
    ),
    (
        "startend:start_checker",
        {"start_phrase": "To be honest"},
        ["to be honest, yes", '"To be honest" it'],
        ["Well, to be honest"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "and so on."},
        ["This And so on.\n", 'This "and so on."'],
        ["and so on. Bye"],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "x" '], ['"x', "x", '"', "'x'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["STOP and LOOK", "A B"],
        ["STOP", "WELL-KNOWN thing", "Stop Look"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["WELL-KNOWN thing"],
        ["STOP NOW"],
    ),
    ("change_case:english_capital", {}, ["ALL OF IT, 3 TIMES!"], ["All of it", "3!"]),
    ("change_case:english_lowercase", {}, ["all of it, 3 times!"], ["All of it", "3!"]),
    ("punctuation:no_comma", {}, ["no such sign; none"], ["one, two"]),
]


@pytest.mark.parametrize(("kind", "arguments", "followed", "broken"), CASES)
def test_an_instruction_is_followed_by_some_answers_and_not_by_others(
    kind: str, arguments: dict[str, object], followed: list[str], broken: list[str]
) -> None:
    constraint = Constraint(kind, arguments)
    for answer in followed:
        assert constraint.is_followed(answer), answer
    for answer in broken:
        assert not constraint.is_followed(answer), answer


def test_whole_numbers_of_a_table_may_have_a_point() -> None:
    arguments = {"num_paragraphs": 2.0, "nth_paragraph": 2.0, "first_word": "so", "keyword": None}
    kind = "length_constraints:nth_paragraph_first_word"
    row = {"prompt": "p", "instruction_id_list": [kind], "kwargs": [arguments]}
    (constraint,) = constraints_of(row)
    assert constraint.is_followed("One.\n\nSo two.")
    row["kwargs"] = [{**arguments, "nth_paragraph": 1.5}]
    with pytest.raises(DataError, match=r"nth_paragraph 1.5; expected a whole number"):
        constraints_of(row)


def test_every_kind_of_instruction_is_tested() -> None:
    assert {kind for kind, *_ in CASES} == set(CHECKS)


def test_an_empty_answer_follows_nothing() -> None:
    assert not Constraint("punctuation:no_comma", {}).is_followed(" \n")


def test_loosely_asterisks_and_the_first_and_the_last_line_are_forgiven() -> None:
    lower = Constraint("change_case:english_lowercase", {})
    assert not lower.is_followed("Sure!\nall of it")
    assert lower.is_followed_loosely("Sure!\nall of it")
    assert lower.is_followed_loosely("all of it\nHope it helps")
    assert lower.is_followed_loosely("Sure!\nall of it\nHope it helps")
    assert not lower.is_followed_loosely("all of it\nBut not This\nnor that\nBye")
    start = Constraint("startend:start_checker", {"start_phrase": "Well"})
    assert not start.is_followed("**Well** now")
    assert start.is_followed_loosely("**Well** now")


PIECES = (
    *("hive", "Wave wave", "A.B", "quiet, question", "[name]", "[x][y]", "P.S. more", "P.P.S more"),
    *(
        "* a point",
        "- a point",
        "**bold**",
        "*soft*",
        "Section 1",
        "Section 2",
        "<<A title>>",
        "***",
    ),
    *(
        "******",
        "My answer is no.",
        '"',
        "Evening came",
        "UPPER CASE",
        "lower case",
        "one. two? three",
    ),
    *("and so on.", '{"a": 1}', "```json", "```", "Name a fruit."),
)
# Sentences, capital words and languages are counted there by NLTK's models and by langdetect.
COUNTED_OTHERWISE = (
    *("length_constraints:number_sentences", "change_case:capital_word_frequency"),
    *("change_case:english_capital", "change_case:english_lowercase", "startend:start_checker"),
    "language:response_language",
)


def random_answers(count: int) -> list[str]:
    random = np.random.default_rng(0)
    answers = []
    for _ in range(count):
        pieces = random.choice(PIECES, random.integers(1, 7))
        between = random.choice([" ", "\n", "\n\n"], len(pieces))
        answers.append("".join(piece + space for piece, space in zip(pieces, between, strict=True)))
    return answers


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(kind, arguments) for kind, arguments, *_ in CASES if kind not in COUNTED_OTHERWISE],
)
def test_random_answers_are_judged_as_by_ifevals_own_code(
    kind: str, arguments: dict[str, Any]
) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is an optional extra: ontogeny[lm_eval]")
    pytest.importorskip("immutabledict", reason="IFEval's own code needs immutabledict")
    from lm_eval.tasks.ifeval import utils

    if "." in str(arguments.get("keyword")) or "N.B." in str(arguments):
        pytest.skip("IFEval takes a word for a regular expression")
    example = utils.InputExample(0, [kind], "", [arguments])
    constraint = Constraint(kind, arguments)
    for answer in random_answers(400):
        strict = utils.test_instruction_following_strict(example, answer)
        assert constraint.is_followed(answer) == strict.follow_all_instructions, answer
        loose = utils.test_instruction_following_loose(example, answer)
        assert constraint.is_followed_loosely(answer) == loose.follow_all_instructions, answer
