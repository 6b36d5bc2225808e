"""An adapter beside its base is exported as one, and as a whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.plugins.export.conftest import Place, Values
from transformers import AutoModelForCausalLM, AutoTokenizer

from ontogeny.testing import check_exporter

# PEFT asks transformers in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter(tmp_path: Path, checkpoint: Path) -> Path:
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, config)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def test_an_adapter_becomes_a_peft_folder_and_a_whole_model_that_say_the_same(
    place: Place, adapter: Path, checkpoint: Path, measured: Values
) -> None:
    result = place.export(adapter, "exporter=[peft,safetensors]")
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = base(ids).logits.detach()
    whole = AutoModelForCausalLM.from_pretrained(place.exported("safetensors"))(ids).logits
    beside = PeftModel.from_pretrained(base, place.exported("peft"))(ids).logits
    torch.testing.assert_close(whole, beside, rtol=1e-4, atol=1e-4)
    assert (whole - plain).abs().max() > 0.1
    assert measured(result, "peft")["same_answer"] == 1
    assert "<|im_start|>" in AutoTokenizer.from_pretrained(place.exported("peft")).chat_template


def test_the_name_of_the_base_can_be_that_on_the_hub(place: Place, adapter: Path) -> None:
    place.export(adapter, "exporter=[peft]", "exporter.peft.base=someone/base")
    config = json.loads((place.exported("peft") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/base"


def test_peft_keeps_the_contract_of_exporters(adapter: Path) -> None:
    check_exporter("peft", overrides=[f"model.source={adapter}"])
