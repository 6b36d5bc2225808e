"""Students that are cut out of their teacher: blocks, widths, and what is recorded."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ontogeny.adapter import Bundle
from ontogeny.blocks import find_blocks
from ontogeny.errors import ConfigError
from ontogeny_plugins.distillation import Cut
from ontogeny_plugins.distillation.cut import CutAdapter

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 50,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 50}
TEACHERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
}


def teacher(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return TEACHERS[name]().eval()


def student(model: PreTrainedModel, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    adapter = CutAdapter(Cut(**options))
    made = adapter.apply(Bundle(model, None, None)).model
    return made.eval(), dict(adapter.record())


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(12)[None]).logits


@pytest.mark.parametrize("name", TEACHERS)
def test_all_blocks_are_the_teacher_itself(name: str) -> None:
    model = teacher(name)
    made, record = student(model, layers=[0, 1, 2, 3])
    assert torch.equal(logits(made), logits(model))
    assert record["layers"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", TEACHERS)
def test_blocks_that_are_cut_out_are_those_that_were_skipped(name: str) -> None:
    model = teacher(name)
    made, _ = student(model, layers=[0, 3])
    _, blocks = find_blocks(model)
    for block in (blocks[1], blocks[2]):
        block.register_forward_hook(
            lambda _, given, out: (given[0], *out[1:]) if isinstance(out, tuple) else given[0]
        )
    assert torch.allclose(logits(made), logits(model), atol=1e-6)
    assert made.config.num_hidden_layers == 2


@pytest.mark.parametrize("name", TEACHERS)
def test_widths_that_did_nothing_can_go_and_nothing_changes(name: str) -> None:
    model = teacher(name)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "layernorm" in key.lower() or "norm" in key.lower() or "ln_" in key:
                continue
            if any(part in key for part in ("mlp", "intermediate", "layer.")) and (
                "attention" not in key
            ):
                silence(key, weight, name)
    inner = {"gpt2": 96}.get(name, 36)
    made, record = student(model, intermediate_size=inner)
    assert torch.allclose(logits(made), logits(model), atol=1e-5)
    kept = record["widths"]["intermediate_size"]["kept"]
    assert len(kept) == inner
    assert made.num_parameters() < model.num_parameters()


def silence(key: str, weight: torch.Tensor, name: str) -> None:
    """Set every fourth unit of a feed-forward part to zero, before and behind it."""
    into = ("gate_proj", "up_proj", "c_fc", "intermediate.dense")
    out = ("down_proj", "mlp.c_proj", "output.dense")
    transposed = name == "gpt2"
    if any(part in key for part in into):
        (weight.T if transposed and weight.ndim == 2 else weight)[::4] = 0
    elif any(part in key for part in out) and weight.ndim == 2:
        (weight.T if transposed else weight)[:, ::4] = 0


@pytest.mark.parametrize("name", TEACHERS)
def test_a_narrower_student_runs_and_says_what_it_is_made_of(name: str) -> None:
    model = teacher(name)
    made, record = student(model, hidden_size=16, depth=2)
    assert logits(made).shape == logits(model).shape
    kept = record["widths"]["hidden_size"]["kept"]
    table = cast("Tensor", model.get_input_embeddings().weight)
    assert torch.equal(made.get_input_embeddings().weight, table[:, kept])
    assert record["layers"] == [0, 3]
    if name in {"bert", "gpt2"}:  # whole heads
        assert kept == [8 * (place // 8) + place % 8 for place in kept]
        assert made.config.num_attention_heads == 2


def test_heads_go_with_the_keys_that_they_share() -> None:
    model = teacher("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, :16] = 0  # the first two heads, of one key
            layer.self_attn.q_proj.weight[:16] = 0
            layer.self_attn.k_proj.weight[:8] = 0
            layer.self_attn.v_proj.weight[:8] = 0
    made, record = student(model, heads=2)
    assert record["widths"]["heads"]["kept"] == [1]
    assert (made.config.num_attention_heads, made.config.num_key_value_heads) == (2, 1)
    assert torch.allclose(logits(made), logits(model), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("llama", {"layers": [0, 9]}, "names block 9; the model has 4"),
        ("llama", {"depth": 5}, r"depth is 5; expected 1\.\.4"),
        ("llama", {"hidden_size": 64}, r"hidden_size is 64; expected 1\.\.32"),
        ("llama", {"heads": 3}, "heads is 3; expected a multiple of 2"),
        ("bert", {"hidden_size": 12}, "hidden_size is 12; expected a multiple of 8"),
        ("bert", {"heads": 2}, "divide its states among them"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        student(teacher(name), **options)


def test_a_cut_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuts nothing"):
        Cut()
