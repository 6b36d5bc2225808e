"""Pairs, small models, and a batch of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny.objective import Batch, Example, Objective, Row
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.preference.reference import COLUMN

PAIRS: list[Row] = [
    {"prompt": "What is a river? ", "chosen": "Water that runs.", "rejected": "A stone."},
    {"prompt": "Why? ", "chosen": "So.", "rejected": "Because it was so in the beginning."},
    {"prompt": "Name a bird, any bird: ", "chosen": "owl", "rejected": "oak"},
]


@pytest.fixture
def tokenizer() -> Any:
    """Return a tokenizer without a chat template: rows are bare text."""
    made = byte_tokenizer()
    made.chat_template = None
    return made


@pytest.fixture
def rows() -> list[Row]:
    return [dict(row) for row in PAIRS]


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
        "attn_implementation": "sdpa",
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()


@pytest.fixture
def policy() -> LlamaForCausalLM:
    return small_llama(1)


@pytest.fixture
def reference() -> LlamaForCausalLM:
    return small_llama(2)


def annotated(objective: Any, examples: list[Example], reference: Any) -> list[Example]:
    """Return examples with what the reference says of them, as the core adds it."""
    found = []
    for example in examples:
        with torch.no_grad():
            columns = objective.annotate(reference, objective.collate([example]))
        length = len(example["input_ids"])
        found.append({**example, COLUMN: columns[COLUMN][0, :length].numpy().astype(np.float32)})
    return found


def batch_of(objective: Objective, rows: list[Row], tokenizer: Any, reference: Any) -> Batch:
    examples = list(objective.prepare(rows, tokenizer))
    return objective.collate(annotated(objective, examples, reference))
