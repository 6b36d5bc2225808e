"""Small teachers and students, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from ontogeny.testing import byte_tokenizer

WORDS = ["river", "stone", "wind", "light", "dark", "house", "road", "old", "young", "came", "saw"]


def small_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(byte_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "max_position_embeddings": 128,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()


def small_bert(seed: int = 0, **changes: Any) -> BertForMaskedLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(byte_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    return BertForMaskedLM(BertConfig(**(sizes | changes))).eval()


def saved(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(tmp_path: Path, home: Path) -> Path:
    """Return a checkpoint of a small decoder."""
    return saved(tmp_path / "teacher", small_llama(1))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    rows = [
        {"text": f"{word} {other}, {number} times the {word}."}
        for number in range(2)
        for word in WORDS
        for other in WORDS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    file = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": f"{word} {number}?", "completion": f" {word} {word}!"}
        for number in range(4)
        for word in WORDS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
STUDENT = ["model=llama_tiny", *(f"model.config.{name}={value}" for name, value in SIZES.items())]
RUN = [
    "data.max_length=64",
    "data.batch_size=4",
    "data.validation.share=0.1",
    "trainer.max_steps=8",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "precision=32-true",
    "stage.sample_tokens=0",
    "evaluator=[]",
]
