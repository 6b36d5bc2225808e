"""Checkpoints: folders that others open without us, whole or not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny import CheckpointError
from ontogeny.adapter import Bundle
from ontogeny.checkpoint import checkpoint_digest, read_lineage, save_checkpoint
from ontogeny.head import Head
from ontogeny.options import Model
from ontogeny.testing import byte_tokenizer

LINEAGE: dict[str, object] = {
    "stage": "pretraining",
    "steps": 3,
    "parent": None,
    "data": [{"path": "books/", "rows": 7}],
}


class Plain(Head):
    """Saves as every head does."""

    def load(self, model: Model, tokenizer: object) -> PreTrainedModel:
        raise NotImplementedError


class Failing(Plain):
    """Dies in the middle of saving."""

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        del model
        (folder / "half").write_text("")
        msg = "cut off"
        raise OSError(msg)


@pytest.fixture
def bundle() -> Bundle:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=len(tokenizer))
    return Bundle(LlamaForCausalLM(config), tokenizer, Plain())


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return save_checkpoint(bundle, tmp_path / "checkpoint", LINEAGE)


def test_others_open_it_and_get_the_same_logits(bundle: Bundle, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("Round trips: ünd 🙂\n", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [bundle.tokenizer("Round trips: ünd 🙂\n")["input_ids"]]
    with torch.no_grad():
        theirs, ours = model(**inputs).logits, bundle.model.eval()(**inputs).logits
    assert torch.equal(theirs, ours)


def test_weights_are_safetensors_and_nothing_is_pickled(folder: Path) -> None:
    suffixes = {file.suffix for file in folder.iterdir()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl"}


def test_older_readers_know_the_tokenizers_class(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_chat_template_stands_where_older_readers_look_too(
    bundle: Bundle, folder: Path
) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == bundle.tokenizer.chat_template
    assert (folder / "chat_template.jinja").read_text() == bundle.tokenizer.chat_template


def test_special_ids_stand_where_generation_looks_for_them(bundle: Bundle, folder: Path) -> None:
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id is not None
    assert generation.pad_token_id == bundle.tokenizer.pad_token_id


def test_what_ends_an_answer_is_saved_also_where_the_weights_are_an_adapter(
    bundle: Bundle, tmp_path: Path
) -> None:
    class Beside(Plain):
        def save(self, model: PreTrainedModel, folder: Path) -> None:
            (folder / "adapter_model.safetensors").write_bytes(b"")

    folder = save_checkpoint(
        Bundle(bundle.model, bundle.tokenizer, Beside()), tmp_path / "adapter", LINEAGE
    )
    saved = GenerationConfig.from_pretrained(folder)
    assert saved.eos_token_id == bundle.model.generation_config.eos_token_id is not None


def test_the_lineage_comes_back(folder: Path) -> None:
    assert read_lineage(folder) == LINEAGE


def test_the_card_says_where_it_comes_from(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "Made by the stage `pretraining`" in card
    assert "| books/ | 7 |" in card


def test_a_checkpoint_of_others_has_no_lineage(folder: Path) -> None:
    (folder / "lineage.json").unlink()
    assert read_lineage(folder) == {}


def test_a_torn_lineage_is_an_error(folder: Path) -> None:
    (folder / "lineage.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"lineage.json is not valid JSON"):
        read_lineage(folder)


def test_a_lineage_of_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder; expected a checkpoint"):
        read_lineage(tmp_path / "absent")


def test_a_save_that_is_cut_off_leaves_the_old_checkpoint_and_no_half(
    bundle: Bundle, folder: Path
) -> None:
    before = checkpoint_digest("model.source", str(folder))
    with pytest.raises(OSError, match="cut off"):
        save_checkpoint(Bundle(bundle.model, bundle.tokenizer, Failing()), folder, LINEAGE)
    assert checkpoint_digest("model.source", str(folder)) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_saving_again_replaces_the_old_one(bundle: Bundle, folder: Path) -> None:
    save_checkpoint(bundle, folder, {"stage": "another"})
    assert read_lineage(folder) == {"stage": "another"}


def test_the_digest_is_of_what_a_model_is_and_not_of_its_papers(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    before = checkpoint_digest("model.source", str(folder))
    other = save_checkpoint(bundle, tmp_path / "other", {"stage": "another"})
    assert checkpoint_digest("model.source", str(other)) == before
    with torch.no_grad():
        next(bundle.model.parameters())[0, 0] += 1
    changed = save_checkpoint(bundle, tmp_path / "changed", LINEAGE)
    assert checkpoint_digest("model.source", str(changed)) != before


def test_a_name_on_the_hub_is_its_own_digest(home: Path) -> None:
    assert checkpoint_digest("model.source", "someone/some-model") == "hub:someone/some-model"


def test_a_folder_of_a_tokenizer_alone_is_one_for_tokenizers_only(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    assert checkpoint_digest("tokenizer.source", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"model.source is .*, which holds no config.json"):
        checkpoint_digest("model.source", str(tmp_path))


@pytest.mark.parametrize("source", ["./absent", "home/absent/deep", "/absent"])
def test_a_folder_that_does_not_exist_is_named_with_its_key(source: str, home: Path) -> None:
    with pytest.raises(CheckpointError, match=f"teacher.source is '{source}', which does not exi"):
        checkpoint_digest("teacher.source", source)


def test_a_misspelt_folder_is_told_the_nearest(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'checkpoint'\?"):
        checkpoint_digest("model.source", str(folder.with_name("chekpoint")))
