"""Tokenizers trained on the data: any text round-trips, and the same data give the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ontogeny import ConfigError, compose
from ontogeny.data.pipeline import SourceReader
from ontogeny.data.splitting import is_held_out
from ontogeny.interruption import Interruption
from ontogeny.options import Tokenizer
from ontogeny.plugins import registry
from ontogeny.stage import StageContext
from ontogeny.store import Store
from ontogeny_plugins.pretraining.tokenizer import BYTES, byte_bpe, characters, trained_tokenizer

TEXTS = [
    f"the old house on the road, number {number}: it was dark and light" for number in range(50)
]
STRANGE = [
    "plain words",
    "  leading and trailing   spaces  ",
    "line\nbreaks\r\nand\ttabs\n\n\n",
    "emoji 🙂👩‍👩‍👧‍👦🇩🇪 and signs ∑∫√",
    "中文。日本語、한국어 и русский",
    "a\u0301 combining, \u202eright to left\u202c, zero\u200bwidth",
    "control \x01\x1f\x7f and \ufffd",
    "",
    "<|endoftext|> as text",
    "'s 't 're quotes \"“”\" … — 1234567890",
]


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


def context(store: Store, *overrides: str, texts: list[str] | None = None) -> StageContext:
    file = Path("text.jsonl")
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts or TEXTS))
    config = compose([f"data.path={file}", *overrides]).stages["pretraining"]
    return StageContext(
        name="pretraining",
        config=config,
        registry=registry(),
        store=store,
        folder=store.root,
        key="",
        lineage={},
        interruption=Interruption(),
        announce=lambda _: None,
    )


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast("list[int]", tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", STRANGE)
def test_byte_bpe_gives_any_text_back_exactly(text: str, store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, "tokenizer.vocab_size=300"))
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_byte_bpe_has_the_size_that_was_asked_for(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, "tokenizer.vocab_size=290"))
    assert len(tokenizer) == 290
    assert max(tokenizer.get_vocab().values()) == 289


def test_byte_bpe_merges_what_is_frequent(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, "tokenizer.vocab_size=400"))
    assert len(ids_of(tokenizer, " house")) == 1
    assert len(ids_of(tokenizer, " horse")) > 1


def test_pairs_that_are_too_rare_are_not_merged(store: Store) -> None:
    many = trained_tokenizer(context(store, "tokenizer.min_frequency=2"))
    few = trained_tokenizer(context(store, "tokenizer.min_frequency=60"))
    assert len(few) < len(many)


def test_the_end_of_text_and_the_padding_are_tokens_of_their_own(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store))
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|padding|>"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


def test_too_small_a_vocabulary_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size is 257; byte_bpe needs 258"):
        byte_bpe(iter(TEXTS), Tokenizer(vocab_size=BYTES + 1))


def test_a_vocabulary_of_bytes_alone_is_enough(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, "tokenizer.vocab_size=258"))
    assert len(ids_of(tokenizer, "ü🙂")) == 6


@pytest.mark.parametrize("algorithm", ["byte_bpe", "characters", "wordpiece"])
def test_training_twice_gives_identical_files(algorithm: str, home: Path) -> None:
    files = []
    for name in ("first", "second"):
        trained_tokenizer(context(Store(home / name), f"tokenizer.algorithm={algorithm}"))
        (folder,) = (home / name / "tokenizers").iterdir()
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    first, second = files
    for each in files:
        each.pop("MANIFEST.json", None)  # it says when
    assert first == second
    assert "tokenizer.json" in first


def test_a_tokenizer_is_found_in_the_store_the_second_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained_tokenizer(context(store))
    monkeypatch.setattr(SourceReader, "training_records", lambda _: pytest.fail("trained again"))
    assert trained_tokenizer(context(store)).get_vocab() == first.get_vocab()


def test_older_readers_know_the_saved_class(store: Store) -> None:
    trained_tokenizer(context(store))
    (folder,) = (store.root / "tokenizers").iterdir()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(folder)
    assert again.decode(ids_of(again, STRANGE[3])) == STRANGE[3]


def test_rows_that_are_held_out_do_not_train_the_tokenizer(store: Store) -> None:
    texts = [f"{chr(0x4E00 + number)} stands here" for number in range(200)]
    overrides = ("tokenizer.algorithm=characters", "data.validation.share=0.3")
    vocabulary = trained_tokenizer(context(store, *overrides, texts=texts)).get_vocab()
    for text in texts:
        assert (text[0] in vocabulary) is not is_held_out({"text": text}, 0.3)


# ---------------------------------------------------------------- special tokens of the objective

MASKED = ("objective=mlm", "tokenizer.vocab_size=300")


def test_an_objective_brings_the_special_tokens_that_it_needs(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, *MASKED))
    assert (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token) == (
        "[CLS]",
        "[SEP]",
        "[MASK]",
    )
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert tokenizer.eos_token == "<|endoftext|>"
    assert len(tokenizer) == 300


def test_such_a_tokenizer_frames_texts_and_pairs(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, *MASKED))
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    one, two = ids_of(tokenizer, "the old"), ids_of(tokenizer, " road")
    assert tokenizer("the old")["input_ids"] == [start, *one, end]
    pair = tokenizer("the old", " road", return_token_type_ids=True)
    assert pair["input_ids"] == [start, *one, end, *two, end]
    assert pair["token_type_ids"] == [0] * (len(one) + 2) + [1] * (len(two) + 1)


@pytest.mark.parametrize("algorithm", ["byte_bpe", "characters"])
def test_without_such_tokens_a_tokenizer_is_another_one_in_the_store(
    algorithm: str, store: Store
) -> None:
    plain = trained_tokenizer(context(store, f"tokenizer.algorithm={algorithm}"))
    masked = trained_tokenizer(context(store, f"tokenizer.algorithm={algorithm}", *MASKED[:1]))
    assert plain.mask_token is None
    assert plain("the old")["input_ids"] == ids_of(plain, "the old")
    assert masked.mask_token_id is not None
    assert plain.eos_token_id == masked.eos_token_id == 0


def test_the_room_for_special_tokens_counts(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size is 260; byte_bpe needs 261"):
        trained_tokenizer(context(store, "objective=mlm", "tokenizer.vocab_size=260"))


# -------------------------------------------------------------------------------------- wordpiece


def wordpieces(store: Store, *overrides: str, texts: list[str] | None = None) -> Any:
    return trained_tokenizer(
        context(store, "tokenizer.algorithm=wordpiece", *overrides, texts=texts)
    )


def test_wordpiece_has_the_special_tokens_and_the_frame_of_bert(store: Store) -> None:
    for overrides in ((), ("objective=mlm",)):
        tokenizer = wordpieces(store, *overrides)
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert tokenizer.convert_ids_to_tokens(range(5)) == names
        assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
        assert tokenizer("road")["input_ids"] == [2, *ids_of(tokenizer, "road"), 3]
        assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)


def test_pieces_within_a_word_are_marked_and_decode_to_it(store: Store) -> None:
    tokenizer = wordpieces(store)
    assert tokenizer.tokenize("the house") == ["the", "house"]
    assert tokenizer.tokenize("darkroad") == ["dark", "##r", "##oad"]
    assert tokenizer.decode(ids_of(tokenizer, "the darkroad")) == "the darkroad"


def test_the_case_of_letters_and_their_accents_are_kept(store: Store) -> None:
    tokenizer = wordpieces(store, texts=["The Élan of the élan"] * 30)
    assert tokenizer.tokenize("The Élan élan") == ["The", "Élan", "élan"]


def test_a_letter_that_was_never_seen_makes_its_word_unknown(store: Store) -> None:
    tokenizer = wordpieces(store)
    assert tokenizer.tokenize("old 🙂 house") == ["old", "[UNK]", "house"]


def test_marks_stand_for_letters_within_words_alone(store: Store) -> None:
    vocabulary = wordpieces(store, texts=["ab, ca. ab"] * 9).get_vocab()
    assert {"a", "b", "c", ",", ".", "##a", "##b"} <= vocabulary.keys()
    assert not {"##c", "##,", "##.", "## "} & vocabulary.keys()


def test_more_letters_than_a_quarter_of_the_vocabulary_leave_the_rarest_out(store: Store) -> None:
    texts = ["".join(chr(97 + n) for n in range(20)), "abc " * 20]
    tokenizer = wordpieces(store, "tokenizer.vocab_size=40", texts=texts * 9)
    assert len(tokenizer) <= 40
    assert tokenizer.tokenize("abc t") == ["abc", "[UNK]"]


# ------------------------------------------------------------------------------------- characters


def test_every_character_is_a_token_and_comes_back(store: Store) -> None:
    texts = ["ab\ncd", "é🙂 中", "xyz"] * 20
    overrides = ("tokenizer.algorithm=characters", "data.validation.share=0")
    tokenizer = trained_tokenizer(context(store, *overrides, texts=texts))
    for text in texts:
        assert len(ids_of(tokenizer, text)) == len(text)
        assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert len(tokenizer) == len(set("".join(texts))) + 3  # end of text, padding, unknown


def test_a_character_that_was_never_seen_is_the_unknown_one(store: Store) -> None:
    tokenizer = trained_tokenizer(context(store, "tokenizer.algorithm=characters"))
    (unknown,) = ids_of(tokenizer, "Ω")
    assert tokenizer.convert_ids_to_tokens(unknown) == "<|unknown|>"


def test_characters_are_numbered_in_their_order() -> None:
    backend = characters(iter(["cab"]), Tokenizer())
    assert backend.encode("abc").ids == [2, 3, 4]


def test_more_characters_than_the_vocabulary_has_room_for_are_an_error() -> None:
    words = "tokenizer.vocab_size is 5, but the data has 3 different characters; raise it to 6"
    with pytest.raises(ConfigError, match=words):
        characters(iter(["abc"]), Tokenizer(vocab_size=5))
