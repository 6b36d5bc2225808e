"""What stands around a text, and which of its tokens make a word."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ontogeny.data.documents import Frame, frame_of, ids_and_units, special_ids, token_ids
from ontogeny.errors import ConfigError
from ontogeny.testing import byte_tokenizer


def letters(**special: str) -> Tokenizer:
    """Return a backend that knows letters, with these special tokens first."""
    tokens = [*dict.fromkeys(special.values()), *"abcdefgh", "##a", "##b"]
    numbers = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="h"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def fast(backend: Tokenizer, **special: str) -> PreTrainedTokenizerBase:
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    return cast("PreTrainedTokenizerBase", made)


def test_the_frame_is_what_the_tokenizer_puts_around_a_text() -> None:
    special = {"cls_token": "<s>", "sep_token": "</s>"}
    backend = letters(**special)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    assert frame_of(fast(backend, **special)) == Frame([0], [1])


def test_a_tokenizer_that_ends_texts_alone_has_no_start() -> None:
    special = {"eos_token": "</s>", "bos_token": "<s>"}
    backend = letters(**special)
    backend.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 0)])
    assert frame_of(fast(backend, **special)) == Frame([], [0])


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, Frame([0], [1])),
        ({"bos_token": "<s>", "cls_token": "<c>", "sep_token": "<p>"}, Frame([1], [2])),
        ({"eos_token": "</s>"}, Frame([], [0])),
        ({}, Frame([], [])),
    ],
)
def test_where_nothing_is_added_the_tokens_for_start_and_end_are_taken(
    special: dict[str, Any], expected: Frame
) -> None:
    assert frame_of(fast(letters(**special), **special)) == expected


def test_a_frame_stands_around_ids_and_zeros_beside_them() -> None:
    frame = Frame([7, 8], [9])
    column = np.array([1, 2], np.int32)
    assert len(frame) == 3
    assert frame.around(column).tolist() == [7, 8, 1, 2, 9]
    assert frame.around(column).dtype == np.int32
    assert frame.zeros_around(column).tolist() == [0, 0, 1, 2, 0]


def test_token_ids_have_no_special_tokens_around_them() -> None:
    backend = letters(cls_token="<s>")
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    assert token_ids(["a b", ""], fast(backend, cls_token="<s>")) == [[1, 2], []]


def test_units_are_tokens_or_words() -> None:
    tokenizer = fast(letters())
    found = {
        words: [
            (ids.tolist(), units.tolist())
            for ids, units in ids_and_units(["ab c", "", "aab"], tokenizer, words=words)
        ]
        for words in (False, True)
    }
    ids = [token_ids([text], tokenizer)[0] for text in ("ab c", "", "aab")]
    assert found[False] == list(zip(ids, [[1, 2, 3], [], [1, 2, 3]], strict=True))
    assert found[True] == list(zip(ids, [[1, 1, 2], [], [1, 1, 1]], strict=True))


def test_a_byte_level_word_has_the_space_before_it() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    ((_, units),) = ids_and_units(["one two."], tokenizer, words=True)
    assert units.tolist() == [1, 1, 1, 2, 2, 2, 2, 3]


def single_letters(text: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of single letters whose pre-tokenizer leaves texts whole, as Gemma's."""
    backend = Tokenizer(
        models.BPE({letter: n for n, letter in enumerate(sorted({*text, "▁"}))}, [])
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    return fast(backend)


def words_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the words of a text, each as its letters."""
    ((_, units_T),) = ids_and_units([text], tokenizer, words=True)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = list(zip(units_T, offsets["offset_mapping"], strict=True))
    spans = [
        [place for unit, place in places if unit == word] for word in range(1, max(units_T) + 1)
    ]
    return [text[min(min(span)) : max(max(span))] for span in spans]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one  two\n\nthree ", ["one", "  two", "\n\nthree", " "]),
        ("春眠不觉,ok 晓a", ["春", "眠", "不", "觉", ",ok", " ", "晓", "a"]),
        ("ภาษา 한국어 말", ["ภ", "า", "ษ", "า", " 한국어", " 말"]),
        ("ひらがな。", ["ひ", "ら", "が", "な", "。"]),
    ],
)
def test_words_end_at_white_space_and_letters_of_scripts_without_it_stand_alone(
    text: str, words: list[str]
) -> None:
    assert words_of(text, single_letters(text)) == words


def test_words_of_a_byte_level_tokenizer_are_of_whole_letters_in_chinese() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    ((_, units),) = ids_and_units(["春眠 ok"], tokenizer, words=True)
    assert units.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_token_of_two_letters_and_what_shares_one_with_it_are_one_word() -> None:
    # Tokens of bytes: the first letter and a third of the second; its rest; the third letter.
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("春眠不")[0][0]
    merges = [(pieces[:n], pieces[n]) for n in range(1, 4)] + [(pieces[4], pieces[5])]
    merges += [(pieces[6], pieces[7]), (pieces[6:8], pieces[8])]
    tokens = dict.fromkeys([*pieces, *("".join(merge) for merge in merges)])
    backend = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ((_, units),) = ids_and_units(["春眠不"], fast(backend), words=True)
    assert units.tolist() == [1, 1, 2]


def test_a_tokenizer_that_tells_no_places_is_refused() -> None:
    slow = cast("PreTrainedTokenizerBase", ByT5Tokenizer())
    with pytest.raises(ConfigError, match="ByT5Tokenizer, does not tell which tokens make a word"):
        list(ids_and_units(["a"], slow, words=True))


def test_special_tokens_without_a_role_are_special_too() -> None:
    tokenizer = fast(letters(cls_token="<s>"), cls_token="<s>")
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens(["<|mark|>"])
    backend.add_tokens(["plain"])
    tokenizer = fast(backend, cls_token="<s>")
    named = tokenizer.convert_tokens_to_ids(["<s>", "<|mark|>"])
    assert special_ids(tokenizer) == sorted(named)
