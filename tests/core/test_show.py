"""`ontogeny show`: what a checkpoint is, out of its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ontogeny import CheckpointError
from ontogeny.show import show

LINEAGE = {
    "stage": "pretraining",
    "steps": 12,
    "parent": None,
    "key": "abc",
    "data": [{"name": "novels", "path": "books/", "rows": 90, "held_out": 10}],
    "versions": {"ontogeny": "0.1.0", "torch": "2.13"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shards = ({"a": torch.zeros(3, 4)}, {"b": torch.zeros(5), "c": torch.zeros(())})
    for number, tensors in enumerate(shards):
        save_file(tensors, tmp_path / f"model-{number}.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_parameters_are_counted_over_all_files(folder: Path) -> None:
    text = show(str(folder))
    assert "model      LlamaForCausalLM (llama)" in text
    assert "size       18 parameters" in text  # 3 * 4 + 5 + 1
    assert "vocabulary 300" in text


def test_a_checkpoint_of_ours_says_where_it_comes_from(folder: Path) -> None:
    (folder / "lineage.json").write_text(json.dumps(LINEAGE))
    text = show(str(folder))
    assert "versions   ontogeny 0.1.0, torch 2.13" in text
    assert "key        abc" in text
    assert text.splitlines()[-6:] == [
        "",
        "○ random weights",
        "│",
        "● pretraining, 12 steps",
        "    data     novels: books/ (90 rows, 10 held out)",
        "    key      abc",
    ]


def test_the_stages_before_are_drawn_above_with_what_they_gave(folder: Path) -> None:
    metrics = {"perplexity": {"bits_per_byte": {"value": 2.1, "low": 2.0, "high": 2.2}}}
    inputs = {
        "model.source": {"source": "/gone", "key": "abc"},
        "teacher.source": {"source": "/big", "key": None},
    }
    after = {"stage": "sft", "steps": 3, "key": "def", "metrics": metrics, "inputs": inputs}
    (folder / "lineage.json").write_text(json.dumps({**after, "ancestors": [LINEAGE]}))
    assert show(str(folder)).splitlines()[-11:] == [
        "○ random weights",
        "│",
        "● pretraining, 12 steps",
        "│   data     novels: books/ (90 rows, 10 held out)",
        "│   key      abc",
        "│",
        "● sft, 3 steps",
        "    model    pretraining",
        "    teacher  /big",
        "    measured perplexity/bits_per_byte 2.1 (2 to 2.2)",
        "    key      def",
    ]


def test_a_checkpoint_of_others_has_no_lineage(folder: Path) -> None:
    assert show(str(folder)).endswith("lineage    none: not written by Ontogeny")


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no config.json"):
        show(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "lineage.json"])
def test_a_torn_file_is_named(name: str, folder: Path) -> None:
    (folder / name).write_text('{"torn')
    with pytest.raises(CheckpointError, match=f"{name} is not valid JSON"):
        show(str(folder))


def test_torn_weights_are_named(folder: Path) -> None:
    (folder / "model-0.safetensors").write_bytes(b"\x10\0")
    with pytest.raises(CheckpointError, match=r"model-0.safetensors is damaged"):
        show(str(folder))
