"""A tiny model with a byte-level BPE tokenizer and a chat template, and text to compare on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ontogeny import compose, run
from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.lifecycle import RunResult
from ontogeny.plugins import registry

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and it's 1234 times as fast as the dog.",
    "Rivers run to the sea:  they do not run back.\n\nNaïve façades – 水 – line their banks.",
    "We've seen the fox; the fox has seen us. They'll jump over 7 dogs at 10:45.",
]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Return byte-level BPE that splits as GPT-2 does, with ChatML."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special[0],
        eos_token=special[0],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def saved(folder: Path, model: Any, tokenizer: Any, head: str = "causal_lm") -> Path:
    """Save a model as stages do."""
    found = registry().get("head", head).component
    return save_checkpoint(Bundle(model, tokenizer, found.load()(found.config())), folder, {})


def llama(**changes: Any) -> LlamaForCausalLM:
    """Return a tiny Llama whose weights are random, and large enough to matter."""
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": 303, "eos_token_id": 0, "bos_token_id": 0, **changes}
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.2)
    return model


@dataclass
class Place:
    """A folder with a text file; `export` runs the stage there."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> Path:
        file = self.folder / "text.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        return file

    def export(self, source: Path, *overrides: str) -> RunResult:
        """Export a checkpoint; the lines that a user reads are in `lines`."""
        given = ["stage=export", f"model.source={source}", f"data.path={self.text}"]
        quick = ["stage.answer_tokens=6", "data.max_length=64"]
        config = compose([*given, *quick, *overrides])
        return run(config, self.folder / "run", self.lines.append)

    def exported(self, name: str) -> Path:
        """Return the folder of a format."""
        return self.folder / "run/stages/export/exports" / name


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("llama") / "checkpoint", llama(), bpe_tokenizer())


Values = Callable[[RunResult, str], dict[str, float]]


def values(result: RunResult, name: str) -> dict[str, float]:
    """Return what was measured of a format."""
    return {key: each.value for key, each in result.metrics["export"][name].items()}


@pytest.fixture
def measured() -> Values:
    return cast("Values", values)
