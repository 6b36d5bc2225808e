"""Tags, the spans that they mark, and rows that do not fit."""

from __future__ import annotations

import re

import pytest

from ontogeny_plugins.tagging.tags import Tags, in_order, spans_of, words_and_tags

Spans = set[tuple[str, int, int]]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", set()),
        ("B-A I-A O", {("A", 0, 2)}),
        ("B-A B-A", {("A", 0, 1), ("A", 1, 2)}),
        ("B-A I-B", {("A", 0, 1), ("B", 1, 2)}),  # another type begins a span
        ("I-A I-A O I-A", {("A", 0, 2), ("A", 3, 4)}),  # so does inside after outside
        ("O B-A I-A I-A", {("A", 1, 4)}),
        ("B-A O B-A", {("A", 0, 1), ("A", 2, 3)}),
        ("S-A S-A", {("A", 0, 1), ("A", 1, 2)}),
        ("B-A I-A E-A E-A", {("A", 0, 3), ("A", 3, 4)}),
        ("U-A B-B L-B", {("A", 0, 1), ("B", 1, 3)}),
        ("B-A-x I-A-x", {("A-x", 0, 2)}),
        ("", set()),
    ],
)
def test_spans_are_those_of_conlleval(tags: str, spans: Spans) -> None:
    assert spans_of(tags.split()) == spans


def test_spans_of_random_tags_are_those_of_the_rules_written_out() -> None:
    import random

    generator = random.Random(0)
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    for _ in range(500):
        tags = [generator.choice(names) for _ in range(generator.randint(1, 12))]
        # Inside tags that begin a span are written as such; then a span is a match.
        plain = [
            f"B{tag[1:]}"
            if tag[0] == "I" and (place == 0 or tags[place - 1][1:] != tag[1:])
            else tag
            for place, tag in enumerate(tags)
        ]
        text = "".join(tag[0] + tag[2:] for tag in plain).replace("O", "OO")
        expected = {
            (found[0][1], found.start() // 2, found.end() // 2)
            for found in re.finditer(r"B([AB])(?:I\1)*", text)
        }
        assert spans_of(tags) == expected


def test_spans_are_those_of_seqeval_where_it_is_installed() -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    import random

    generator = random.Random(1)
    names = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC"))]
    for _ in range(500):
        tags = [generator.choice(names) for _ in range(generator.randint(1, 12))]
        expected = {(kind, first, last + 1) for kind, first, last in labeling.get_entities(tags)}
        assert spans_of(tags) == expected


@pytest.mark.parametrize(
    ("names", "marking"),
    [(["O", "B-A", "I-A"], True), (["NOUN", "VERB"], False), (["0", "1"], False), (["O"], False)],
)
def test_whether_tags_mark_spans_is_seen_by_their_names(names: list[str], marking: bool) -> None:
    assert Tags(names).mark_spans == marking


def test_tags_are_found_by_name_and_by_number() -> None:
    tags = Tags(["O", "B-A", "I-A"])
    assert [tags.id_of(tag) for tag in ("O", "I-A", 1, "2")] == [0, 2, 1, 2]
    assert Tags(["0", "2"]).id_of(2) == 1


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("B-X", "tag is 'B-X', which is none of the tags: O, B-A, I-A"),
        (3, "tag is '3', which is none of the tags"),
        (True, "tag is True; expected text or a whole number"),
        ("", "tag is ''; expected text or a whole number"),
        (None, "tag is None; expected text or a whole number"),
    ],
)
def test_a_tag_that_there_is_not_is_told(tag: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tags(["O", "B-A", "I-A"]).id_of(tag)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens but 1 tags; expected one for each"),
        ({"tokens": "a b", "tags": ["O"]}, "tokens is 'a b'; expected a list of words"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, r"tokens is \['a', 1\]; expected a list"),
        ({"tokens": ["a"], "tags": "O"}, "tags is 'O'; expected a list, one for each word"),
        ({"tokens": [], "tags": []}, "tokens is empty; expected one word or more"),
    ],
)
def test_a_row_that_does_not_fit_is_told(row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words_and_tags(row)


def test_numbers_are_sorted_as_numbers() -> None:
    assert in_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert in_order(["O", "B-A"]) == ["B-A", "O"]


def test_further_tokens_of_a_word_go_on_inside() -> None:
    tags = Tags(["O", "B-A", "I-A", "B-B"])
    assert [tags.inside(number) for number in range(4)] == [0, 2, 2, 3]
