"""Loading a tokenizer by name, and the digest that caches go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from ontogeny import CheckpointError, compose
from ontogeny.checkpoint import save_tokenizer
from ontogeny.configuration import StageConfig
from ontogeny.testing import byte_tokenizer
from ontogeny.tokenizers import named_tokenizer, tokenizer_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(byte_tokenizer(), tmp_path)
    return tmp_path


def config(**sources: Path | str) -> StageConfig:
    stage = compose([]).stages["pretraining"]
    stage.tokenizer.source = str(sources["tokenizer"]) if "tokenizer" in sources else None
    stage.model.source = str(sources["model"]) if "model" in sources else None
    return stage


def test_nothing_is_loaded_when_nothing_is_named() -> None:
    assert named_tokenizer(config()) is None


def test_the_models_tokenizer_is_taken_when_no_other_is_named(folder: Path) -> None:
    tokenizer = named_tokenizer(config(model=folder))
    assert tokenizer is not None
    assert len(tokenizer) == len(byte_tokenizer())


def test_a_tokenizer_of_its_own_goes_before_the_models(folder: Path) -> None:
    tokenizer = named_tokenizer(config(model="no/such-model", tokenizer=folder))
    assert tokenizer is not None


@pytest.mark.parametrize("key", ["tokenizer", "model"])
def test_a_folder_without_a_tokenizer_is_named_with_its_key(key: str, tmp_path: Path) -> None:
    words = f"{key}.source is .*, which holds no tokenizer that can be loaded"
    with pytest.raises(CheckpointError, match=words) as caught:
        named_tokenizer(config(**{key: tmp_path}))
    assert "\n" not in str(caught.value)


def test_a_torn_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"torn')
    with pytest.raises(CheckpointError, match="holds no tokenizer that can be loaded"):
        named_tokenizer(config(tokenizer=folder))


def test_the_digest_survives_saving_and_loading(folder: Path) -> None:
    loaded = named_tokenizer(config(tokenizer=folder))
    assert loaded is not None
    assert tokenizer_digest(loaded) == tokenizer_digest(byte_tokenizer())


def test_the_digest_changes_with_whatever_changes_ids() -> None:
    added, other_end, other_chat = byte_tokenizer(), byte_tokenizer(), byte_tokenizer()
    added.add_tokens(["ontogeny"])
    other_end.eos_token = "a"
    other_chat.chat_template = "{{ messages }}"
    digests = [tokenizer_digest(each) for each in (byte_tokenizer(), added, other_end, other_chat)]
    assert len(set(digests)) == 4


def test_using_a_tokenizer_does_not_change_its_digest() -> None:
    tokenizer = byte_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=4)
    assert tokenizer_digest(tokenizer) == before
