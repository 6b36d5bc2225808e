"""Companions: the model as it was given, other checkpoints, adapters switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import CheckpointError, ConfigError, compose
from ontogeny.adapter import Bundle
from ontogeny.companions import Companions, given_model
from ontogeny.head import Head
from ontogeny.plugins import registry
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}


def saved(folder: Path, seed: int, tokenizer: Any) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, num_attention_heads=2, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def companions(tmp_path: Path, *overrides: str, tokenizer: Any = None) -> Companions:
    config = next(iter(compose(list(overrides)).stages.values()))
    head = cast("Head", registry().build(config.head))
    given = byte_tokenizer()
    data = given if tokenizer is None else tokenizer
    store, device = Store(tmp_path / "store"), torch.device("cpu")
    return Companions(config, registry(), store, head, given, data, device)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "base", 0, byte_tokenizer())


def logits(bundle: Bundle) -> torch.Tensor:
    with torch.no_grad():
        return bundle.model(input_ids=torch.tensor([[5, 6, 7]])).logits


def test_the_original_is_the_model_as_it_was_given_frozen(tmp_path: Path, source: Path) -> None:
    made = companions(tmp_path, f"model.source={source}")
    original = made.original.load()
    opened = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    expected = Bundle(opened, original.tokenizer, original.head)
    assert torch.equal(logits(original), logits(expected))
    assert not original.model.training
    assert not any(each.requires_grad for each in original.model.parameters())
    assert made.original.load().model is not original.model


def test_random_weights_are_the_same_original_every_time(tmp_path: Path) -> None:
    made = companions(tmp_path, "model=llama_tiny", "seed=3")
    trained, _ = given_model(made.config, made._head, byte_tokenizer())
    assert torch.equal(logits(made.original.load()), logits(trained))
    assert made.original.digest != companions(tmp_path, "model=llama_tiny").original.digest


def test_a_companion_is_known_by_its_content(tmp_path: Path, source: Path) -> None:
    same = saved(tmp_path / "same", 0, byte_tokenizer())
    other = saved(tmp_path / "other", 1, byte_tokenizer())
    digests = [
        companions(tmp_path, f"model.source={source}", f"teacher.source={folder}")
        for folder in (same, other)
    ]
    first, second = (cast("Any", made.teacher).digest for made in digests)
    assert first == digests[0].original.digest
    assert second != first


def test_there_is_no_teacher_unless_one_is_named(tmp_path: Path, source: Path) -> None:
    assert companions(tmp_path, f"model.source={source}").teacher is None


def test_a_checkpoint_that_is_not_there_is_told_with_its_key(tmp_path: Path, source: Path) -> None:
    made = companions(tmp_path, f"model.source={source}")
    with pytest.raises(CheckpointError, match=r"objective\.judge is '/nowhere', which does not"):
        made.checkpoint("objective.judge", "/nowhere")


def test_a_checkpoint_opens_with_a_head_by_name(tmp_path: Path, source: Path) -> None:
    made = companions(tmp_path, f"model.source={source}")
    judge = made.checkpoint("objective.judge", str(source), head="sequence_classification")
    assert type(judge.load().model).__name__ == "LlamaForSequenceClassification"


def test_a_companion_with_other_tokens_is_refused(tmp_path: Path, source: Path) -> None:
    larger = byte_tokenizer()
    larger.add_tokens(["word"])
    made = companions(tmp_path, f"model.source={source}", tokenizer=larger)
    told = r"model\.source does not know 1 of the 260 tokens of the data"
    with pytest.raises(ConfigError, match=told):
        made.require_same_tokens(made.original)
    unlike = companions(
        tmp_path,
        f"model.source={source}",
        f"teacher.source={saved(tmp_path / 'larger', 0, larger)}",
    )
    with pytest.raises(ConfigError, match=r"teacher\.source has another vocabulary \(260 tokens\)"):
        unlike.require_same_tokens(cast("Any", unlike.teacher))


def test_without_adapters_nothing_can_be_switched_off(tmp_path: Path, source: Path) -> None:
    made = companions(tmp_path, f"model.source={source}")
    with pytest.raises(ConfigError, match="there is no adapter to switch off"), made.adapters_off():
        pass
