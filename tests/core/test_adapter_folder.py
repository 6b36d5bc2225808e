"""Folders that PEFT itself has written are models to start from, and errors name both folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny import CheckpointError, ConfigError
from ontogeny.checkpoint import base_of_adapter, checkpoint_digest, is_adapter_folder
from ontogeny.models import load_pretrained, name_matches, new_weights, trained_share
from ontogeny.options import Model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
IDS = torch.arange(12)[None]


def llama(**changes: object) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, **changes}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, num_attention_heads=2, initializer_range=0.1, **sizes)
    return LlamaForCausalLM(config)


def logits(model: PreTrainedModel | PeftModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def write(folder: Path, **options: object) -> tuple[Path, Tensor]:
    """Save a base and, by PEFT alone, a LoRA on it; return the adapter's folder and its logits."""
    llama().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **options)
    adapted = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder / "adapter")
    return folder / "adapter", logits(adapted)


def load(folder: Path, auto: type = AutoModelForCausalLM) -> PreTrainedModel:
    return load_pretrained(auto, Model(source=str(folder)), {})


def test_an_adapter_that_peft_has_saved_is_merged_into_its_base(tmp_path: Path) -> None:
    folder, expected = write(tmp_path)
    model = load(folder)
    assert type(model) is LlamaForCausalLM
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert load(folder).training
    assert model.name_or_path == str(folder)


def test_its_digest_is_of_both_folders(tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    assert is_adapter_folder(str(folder))
    assert base_of_adapter("model.source", str(folder)) == str(tmp_path / "base")
    digests = {checkpoint_digest("model.source", str(folder))}
    for changed in (tmp_path / "base" / "more", folder / "more"):
        changed.write_text("x")
        digests.add(checkpoint_digest("model.source", str(folder)))
    assert len(digests) == 3


def test_a_tokenizer_in_the_folder_needs_no_base(tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    (tmp_path / "base").rename(tmp_path / "away")
    assert checkpoint_digest("tokenizer.source", str(folder))
    with pytest.raises(CheckpointError, match=r"on the base '.*base', which does not exist: move"):
        checkpoint_digest("model.source", str(folder))


def test_a_base_that_cannot_be_opened_is_named_with_its_adapter(tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    (tmp_path / "base" / "model.safetensors").write_text("{torn")
    words = rf"model.source is '{folder}', an adapter on '{tmp_path / 'base'}', which cannot be"
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 1}, {"hidden_size": 64}], ids=str)
def test_a_base_that_the_adapter_does_not_fit_is_one_line(
    changes: dict[str, int], tmp_path: Path
) -> None:
    folder, _ = write(tmp_path)
    llama(**changes).save_pretrained(tmp_path / "base")
    words = rf"model.source is '{folder}', an adapter .* its base '{tmp_path / 'base'}'"
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_weights_in_few_bits_are_refused_for_it(tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    model = Model(source=str(folder), quantization="nf4")
    with pytest.raises(
        ConfigError, match=r"model.quantization is 'nf4', but model.source is .*adap"
    ):
        load_pretrained(AutoModelForCausalLM, model, {})


def test_a_damaged_description_is_one_line(tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    (folder / "adapter_config.json").write_text("{torn")
    with pytest.raises(CheckpointError, match=r"adapter_config.json is not valid JSON"):
        load(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="names no base_model_name_or_path: write it in"):
        load(folder)


def test_what_a_checkpoint_lacks_is_told(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert new_weights(load(tmp_path)) == set()
    assert new_weights(load(tmp_path, AutoModelForSequenceClassification)) == {"score.weight"}
    assert new_weights(llama()) == set()


def test_a_name_is_matched_whole_at_its_end_or_by_a_pattern() -> None:
    name = "model.layers.10.self_attn.q_proj"
    for pattern in (name, "q_proj", "self_attn.q_proj", r".*\.10\..*", r"model\.layers\.1\d.*"):
        assert name_matches(pattern, name)
    for pattern in ("proj", "layers.10", r"layers\.10", "10.self_attn"):
        assert not name_matches(pattern, name)
    with pytest.raises(ConfigError, match=r"'q\[' is no name of a layer and no regular expression"):
        name_matches("q[", name)


def test_the_trained_share_is_told() -> None:
    model = llama().requires_grad_(False)
    total = sum(parameter.numel() for parameter in model.parameters())
    model.get_parameter("model.norm.weight").requires_grad_(True)
    assert trained_share(model) == f"32 of {total:,} weights ({32 / total:.3%})"
