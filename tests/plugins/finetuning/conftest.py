"""Small checkpoints to start from, and files of labelled rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a tiny language model of a family, once."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    from ontogeny.checkpoint import save_tokenizer
    from ontogeny.testing import byte_tokenizer

    kinds: dict[str, Any] = {
        "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    }

    def make(family: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"tiny-{family}"
        if not folder.exists():
            torch.manual_seed(0)
            kinds[family]().save_pretrained(folder)
            save_tokenizer(byte_tokenizer(), folder)
        return folder

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[str, Sequence[dict[str, Any]]], Path]:
    """Return a function that writes rows to a file."""

    def write(name: str, rows: Sequence[dict[str, Any]]) -> Path:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write
