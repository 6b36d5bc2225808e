"""A world of eight words, models that speak it, and rewards by a plugin of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "abcdefgh"  # the whole vocabulary: 64 answers of two words
END = "h"  # of an answer, where a tokenizer has one

PLUGIN = """
    from dataclasses import dataclass

    from ontogeny import Component, hookimpl
    from ontogeny.reward import Reward

    @dataclass
    class Table:
        '''What each answer is worth, drawn by a seed.'''
        seed: int = 0
        weight: float = 1.0

    @dataclass
    class Broken:
        '''A reward that is no number.'''
        value: float = float("nan")

    class TableReward(Reward):
        def __init__(self, config):
            import torch

            generator = torch.Generator().manual_seed(config.seed)
            self.worth = torch.randn(8, 8, generator=generator)

        def score(self, completions):
            return [float(self.worth[each.tokens[0], each.tokens[1]]) for each in completions]

    class BrokenReward(Reward):
        def __init__(self, config):
            self.value = config.value

        def score(self, completions):
            return [self.value] * len(completions)

    @hookimpl
    def ontogeny_rewards():
        return [
            Component("table", Table, "worth:TableReward"),
            Component("broken", Broken, "worth:BrokenReward"),
        ]
"""


def words_tokenizer(*, end: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of eight words, one of which may end a text."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token=None)


def words_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "attn_implementation": "sdpa",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def speaker(tmp_path: Path, home: Path) -> Path:
    """Return a checkpoint of a model that never ends an answer."""
    folder = tmp_path / "speaker"
    words_llama(3).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def ending_speaker(tmp_path: Path, home: Path) -> Path:
    """Return a checkpoint of a model for which one of the words ends an answer."""
    folder = tmp_path / "ending-speaker"
    words_llama(4, eos_token_id=WORDS.index(END)).save_pretrained(folder)
    words_tokenizer(end=END).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Return a file of prompts of unequal length."""
    rows = [{"prompt": " ".join(WORDS[: 1 + number % 5] * 2)} for number in range(40)]
    return write_rows(tmp_path / "prompts.jsonl", [{**row, "answer": "b"} for row in rows])


@pytest.fixture
def worth(local_plugin: Callable[..., None]) -> None:
    """Install a plugin that offers the rewards `table` and `broken`."""
    local_plugin("worth", PLUGIN)


def quick(source: Path, data: Path, *more: str) -> list[str]:
    """Return the overrides of a run of three steps."""
    return [
        "stage=reinforcement",
        f"model.source={source}",
        f"data.path={data}",
        "data.max_length=32",
        "data.batch_size=8",
        "data.validation.share=0.2",
        "trainer.max_steps=3",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "trainer.log_every=1",
        "optimizer.lr=1e-3",
        "objective.max_tokens=4",
        "precision=32-true",
        "stage.samples=0",
        "evaluator.rollouts.max_tokens=4",
        *more,
    ]
