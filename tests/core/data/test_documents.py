"""What stands around a text, and which of its tokens make a word."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ontogeny.data.documents import Frame, frame_of, ids_and_units, token_ids
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


def test_a_tokenizer_without_words_is_refused() -> None:
    backend = letters()
    backend.pre_tokenizer = None
    with pytest.raises(ConfigError, match="does not tell which tokens make a word; take one whose"):
        list(ids_and_units(["a"], fast(backend), words=True))
