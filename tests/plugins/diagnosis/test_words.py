"""Words are counted as people count them, and texts are compared at equal length."""

from __future__ import annotations

import pytest

from ontogeny_plugins.diagnosis.words import overlaps, shared_words, task_overlaps, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "It is, as he'd said: well-known!",
            ["it", "is", "as", "he", "d", "said", "well", "known"],
        ),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("iodine-131 and H2O", ["iodine", "131", "and", "h2o"]),
        ("词汇表 is 語彙 and ひらがな", ["词", "汇", "表", "is", "語", "彙", "and", *"ひらがな"]),
        ("  \n ", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_or_single_han_and_kana(
    text: str, expected: list[str]
) -> None:
    assert list(words(text)) == expected


def test_the_commonest_words_are_those_that_occur_twice() -> None:
    left = list("aabbccd")
    right = list("aabbxxy")
    assert shared_words(left, right) == pytest.approx(2 / 3)


def test_the_shorter_list_of_common_words_decides_how_many_are_compared() -> None:
    left = list("aaabbcc")  # its two commonest are a and b
    right = list("aabb")
    assert shared_words(left, right) == 1


def test_of_equally_common_words_the_first_of_the_alphabet_are_taken() -> None:
    left, right = list("zzbbaa"), list("aabb")
    assert shared_words(left, right) == shared_words(left[::-1], right) == 1


def test_texts_in_which_no_word_occurs_twice_share_nothing() -> None:
    assert shared_words(["a", "b"], ["a", "b"]) == 0


def test_more_than_ten_thousand_words_are_not_compared() -> None:
    common = [f"c{number}" for number in range(10_000)] * 3
    rare = [f"r{number}" for number in range(5_000)] * 2
    assert shared_words([*common, *rare], common) == 1


def test_general_text_shares_all_with_itself_and_a_foreign_text_nothing() -> None:
    general = ["one two three one two three"] * 10
    assert overlaps(["un deux trois un deux trois"] * 10, general) == (0, 1)
    assert overlaps(general, general) == (1, 1)


def test_the_overlap_of_general_text_with_itself_is_measured_on_as_many_words_as_the_domain() -> (
    None
):
    # Two halves of 100 words each, of which only the first four are as many as the domain has.
    general = ["a b a b"] * 2 + ["c d c d", "e f e f"] * 24
    assert overlaps(["a b a b"], general) == (1, 1)


def test_a_task_is_compared_with_domain_and_general_text_at_equal_length() -> None:
    domain, general = ["x y x y z z"], ["a b a b c c"]
    assert task_overlaps(["x y x y"], domain, general) == (1, 0)
