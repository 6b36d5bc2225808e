"""Quantisation: fewer bytes, opened by transformers alone, and as good as was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.plugins.compression.conftest import World, value
from transformers import AutoModelForCausalLM

from ontogeny.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(("dtype", "largest"), [("int8", 0.002), ("int4", 0.1)])
def test_a_quantised_folder_is_smaller_and_as_good_as_was_measured(
    world: World, dtype: str, largest: float
) -> None:
    result = world.compress(
        "adapter=[quantization]", f"adapter.quantization.dtype={dtype}", "stage.budget=0.2"
    )
    folder = result.checkpoint or Path()
    own, before = (
        sum(file.stat().st_size for file in each.glob("*.safetensors"))
        for each in (folder, world.checkpoint)
    )
    assert own < 0.6 * before
    assert abs(value(result, "compression", "bits_per_byte_rise")) < largest
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model.model.layers[0].mlp.up_proj.weight).__module__.startswith("torchao")
    weight = model.model.layers[0].mlp.up_proj.weight.dequantize()
    original = AutoModelForCausalLM.from_pretrained(world.checkpoint)
    error = (weight - original.model.layers[0].mlp.up_proj.weight).abs().max()
    assert error <= original.model.layers[0].mlp.up_proj.weight.abs().max() / (
        127 if dtype == "int8" else 7
    )
    ratio = world.measure(folder) / world.measure(world.checkpoint)
    assert abs(ratio - 1) < largest


def test_the_card_says_what_it_has_cost(world: World) -> None:
    result = world.compress("adapter=[quantization]", "stage.budget=0.2")
    folder = result.checkpoint or Path()
    card = (folder / "README.md").read_text()
    assert "## Measured: compression" in card
    assert "| bits_per_byte_rise |" in card
    lineage = json.loads((folder / "lineage.json").read_text())
    assert "Measured: perplexity" in lineage["figures"]
    assert lineage["parent"] == str(world.checkpoint)


def test_pruned_trimmed_and_quantised_in_one_stage(world: World) -> None:
    result = world.compress("adapter=[trimming,wanda,quantization]", "adapter.wanda.sparsity=0.3")
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint or Path())
    weight = model.model.layers[0].mlp.up_proj.weight.dequantize()
    assert (weight == 0).float().mean() > 0.29
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[3, 4, 5]])).logits).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["adapter.quantization.dtype=int2"], "expected one of int8, int4"),
        (
            ["adapter.quantization.dtype=int4", "adapter.quantization.group_size=48"],
            "64 inputs, no multiple of it; choose a divisor",
        ),
        (["model.quantization=torchao_int8"], "in few bits already"),
    ],
)
def test_what_cannot_be_quantised_is_said_in_one_line(
    world: World, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        world.compress("adapter=[quantization]", *options)
    assert "\n" not in str(caught.value)
