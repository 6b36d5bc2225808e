"""Tokens that the user lists: the form they take, what they need, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from ontogeny import ConfigError
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.expansion import Expansion, extend_rules
from ontogeny_plugins.vocabulary.listed import listed_tokens
from ontogeny_plugins.vocabulary.rules import backend_of

KINDS = ["byte_level", "sentencepiece", "wordpiece", "unigram"]
TEXTS = ["an acute myocardial infarction of the myocardium", "心肌梗死"]
Texts = list[str]


def extend(rules: str, *listed: str, **options: Any) -> tuple[Tokenizer, Expansion]:
    extended = json.loads(rules)
    size = options.get("size", 0)
    found = extend_rules(extended, TEXTS, listed, size, Vocabulary(**options))
    return backend_of(extended), found


def tokens(backend: Tokenizer, text: str) -> Texts:
    return backend.encode(text, add_special_tokens=False).tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_listed_word_becomes_one_token_in_a_sentence(kind: str, rules: dict[str, str]) -> None:
    after, found = extend(rules[kind], "myocardial", "infarction")
    space = {"byte_level": "Ġ", "wordpiece": ""}.get(kind, "▁")
    assert [space + "myocardial", space + "infarction"] == [
        token for token in tokens(after, "acute myocardial infarction.") if len(token) > 9
    ]
    assert found.listed == 2
    assert found.needed == len(found) - 2
    assert (found.needed > 0) == (kind in {"byte_level", "sentencepiece"})


def test_a_token_that_seldom_follows_a_space_is_meant_without_one(rules: dict[str, str]) -> None:
    for kind in ("byte_level", "sentencepiece"):
        after, found = extend(rules[kind], "心肌")
        assert after.decode([found.ids[-1]]) == "心肌"
        assert found.ids[-1] in after.encode("x心肌梗死").ids


@pytest.mark.parametrize("mark", [" ", "Ġ", "▁"])
def test_a_space_before_a_listed_token_asks_for_that_form(mark: str, rules: dict[str, str]) -> None:
    after, _ = extend(rules["byte_level"], f"{mark}心肌")
    assert after.token_to_id(tokens(after, "a 心肌")[-1]) is not None
    assert len(tokens(after, "a 心肌")) == 2
    assert len(tokens(after, "心肌")) > 1


def test_merges_of_a_list_share_their_beginnings(rules: dict[str, str]) -> None:
    _, both = extend(rules["byte_level"], "myocardial", "myocard")
    _, longer = extend(rules["byte_level"], "myocardial")
    assert len(both) <= len(longer) + 1
    assert both.spellings.count("Ġmyocard") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_is_encoded_as_before(kind: str, rules: dict[str, str], held_out: Texts) -> None:
    after, found = extend(rules[kind], "myocardial")
    before = Tokenizer.from_str(rules[kind])
    for text in held_out:
        ids = after.encode(text).ids
        if not set(ids) & set(found.ids):
            assert ids == before.encode(text).ids


def test_byte_level_rules_that_drop_spaces_take_words_without_them(general: Texts) -> None:
    """As CLIP's, whose tokens tell the end of a word instead."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words = pre_tokenizers.Split(Regex(r"[\p{L}]+"), "removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(general, trainer)
    after, found = extend(backend.to_str(), "myocardial")
    assert tokens(after, "acute myocardial infarction")[-1] != found.spellings[-1]
    assert found.spellings[-1] == "myocardial</w>"
    assert "myocardial</w>" in tokens(after, "acute myocardial infarction")
    with pytest.raises(ConfigError, match=r"the vocabulary has 'the' already"):
        extend(backend.to_str(), "the")


def test_a_space_without_another_spelling_is_part_of_the_token() -> None:
    letters = {letter: number for number, letter in enumerate(" acehrtu")}
    after, found = extend(Tokenizer(models.BPE(letters, [])).to_str(), " heart")
    assert found.spellings[-1] == " heart"
    assert tokens(after, "a heart") == ["a", " heart"]


def test_what_goes_on_in_a_word_is_marked_for_wordpiece(rules: dict[str, str]) -> None:
    after, found = extend(rules["wordpiece"], "##ocardial")
    assert tokens(after, "zzocardial")[-1] == "##ocardial"
    before = Tokenizer.from_str(rules["wordpiece"])
    assert found.pieces[0] == before.encode("zocardial", add_special_tokens=False).ids[1:]


def test_unknown_characters_become_known(rules: dict[str, str]) -> None:
    for kind, text in (("wordpiece", "ξ"), ("unigram", "ξ"), ("unigram", "ξψ")):
        before = Tokenizer.from_str(rules[kind])
        assert {"[UNK]", "<unk>", text}.intersection(tokens(before, f"a {text}"))
        after, found = extend(rules[kind], text)
        assert after.encode(f"a {text}", add_special_tokens=False).ids[-1] == found.ids[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_is_listed_twice_is_one(kind: str, rules: dict[str, str]) -> None:
    _, found = extend(rules[kind], "myocardial", " myocardial")
    assert found.listed == 1
    assert len(set(found.spellings)) == len(found) == 1 + found.needed


def test_a_list_and_picked_tokens_go_together(rules: dict[str, str]) -> None:
    after, found = extend(rules["byte_level"], "myocardial", size=2, min_saved=1)
    assert len(found) == 1 + found.needed + 2
    before = Tokenizer.from_str(rules["byte_level"])
    old, new = (sum(len(tokens(each, text)) for text in TEXTS) for each in (before, after))
    assert found.saved == old - new
    assert "Ġmyocardial" in tokens(after, TEXTS[0])


@pytest.mark.parametrize(
    ("kind", "listed", "words"),
    [
        ("byte_level", ["the", "of"], r"the vocabulary has 'the', 'of' already; leave them out"),
        ("wordpiece", ["the"], r"the vocabulary has 'the' already; leave it out"),
        ("byte_level", ["<|chat|>"], r"the vocabulary has '<\|chat\|>' already"),
        ("wordpiece", ["Myocardial"], r"no text can reach 'Myocardial'; of 'Myocardial' the"),
        ("wordpiece", ["acute heart"], r"no text can reach 'acute heart'"),
        ("byte_level", ["acute heart"], r"no text can reach 'acute heart'; of 'a acute heart'"),
        ("wordpiece", ["##x-y"], r"no text can reach '##x-y'"),
        ("unigram", ["acute heart"], r"no text can reach 'acute heart'"),
    ],
)
def test_tokens_that_cannot_be_are_refused(
    kind: str, listed: Texts, words: str, rules: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.vocabulary\.tokens: .*" + words):
        extend(rules[kind], *listed)


def test_many_wrong_tokens_are_counted(rules: dict[str, str]) -> None:
    listed = [f"two words{number}" for number in range(9)]
    with pytest.raises(ConfigError, match=r"'two words4' and 4 more; of"):
        extend(rules["byte_level"], *listed)


def test_a_file_lists_tokens_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text("myocardial\n\n infarction\nmyocardial\n")
    options = Vocabulary(tokens=["stenosis"], tokens_file=str(file))
    assert listed_tokens(options) == ["stenosis", "myocardial", " infarction"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "which cannot be read: No such file or directory; expected a text file, one token"),
        (b"caf\xe9\n", "which cannot be read: it is not UTF-8; expected a text file"),
        (b"\n \n", "which holds no token; expected one to a line"),
    ],
)
def test_a_bad_file_of_tokens_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "tokens.txt"
    if content is not None:
        file.write_bytes(content)
    told = re.escape(f"adapter.vocabulary.tokens_file is '{file}', {words}")
    with pytest.raises(ConfigError, match=told):
        listed_tokens(Vocabulary(tokens_file=str(file)))


def test_an_empty_token_is_told() -> None:
    with pytest.raises(ConfigError, match=r"tokens holds an empty token; remove it"):
        listed_tokens(Vocabulary(tokens=["a", " "]))
