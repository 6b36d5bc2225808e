"""LLaMA Pro: a deeper model that computes the same at first, opens anywhere, and learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny import ConfigError, compose, run
from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.models import load_pretrained
from ontogeny.options import Model
from ontogeny.plugins import registry
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.causal_lm import CausalLM
from ontogeny_plugins.causal_lm.head import CausalLMHead
from ontogeny_plugins.freeze import BlockExpansion

SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
IDS = torch.randint(259, (2, 12), generator=torch.Generator().manual_seed(0))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def qwen() -> PreTrainedModel:
    """Windows in the upper half: its config lists the type of each block."""
    config = Qwen3Config(
        **SIZES,
        num_key_value_heads=1,
        head_dim=16,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    return Qwen3ForCausalLM(config)


def gemma() -> PreTrainedModel:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=16))


def mixtral() -> PreTrainedModel:
    config = MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2)
    return MixtralForCausalLM(config)


def gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 64}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=259, **sizes, **ids))


@pytest.fixture(params=[llama, qwen, gemma, mixtral, gpt2])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    built: PreTrainedModel = request.param()
    return built


def logits(model: PreTrainedModel) -> Tensor:
    training = model.training
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    model.train(training)
    return found


def apply(model: PreTrainedModel, every: int = 2) -> tuple[Adapter, Bundle]:
    adapter = registry().build(BlockExpansion(every=every))
    assert isinstance(adapter, Adapter)
    bundle = Bundle(model, byte_tokenizer(), CausalLMHead(CausalLM()))
    return adapter, adapter.apply(bundle)


def teach(model: PreTrainedModel) -> None:
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        output = model.train()(IDS).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(output, IDS.flatten()).backward()
        optimizer.step()


def test_the_deeper_model_computes_the_same_bit_for_bit_and_only_new_blocks_learn(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    before, old = logits(model), {name: each.clone() for name, each in model.state_dict().items()}
    adapter, bundle = apply(model)
    assert model.config.num_hidden_layers == 6
    assert torch.equal(logits(model), before)
    teach(model)
    taught = logits(model)
    assert not torch.equal(taught, before)
    with adapter.off(bundle):
        assert torch.equal(logits(model), before)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".2." in name or ".5." in name for name in trained)
    adapter.settle(bundle)
    assert all(each.requires_grad for each in model.parameters())
    # Blocks 0, 1 and 2, 3 stand where they stood, with a new one after each two.
    place = {"0": "0", "1": "1", "2": "3", "3": "4"}
    for name, weights in old.items():
        parts = [place.get(part, part) for part in name.split(".")]
        assert torch.equal(model.state_dict()[".".join(parts)], weights)
    folder = save_checkpoint(bundle, tmp_path / "deeper", {})
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), taught)


def test_the_cache_of_the_deeper_model_serves_generation() -> None:
    torch.manual_seed(0)
    model = qwen().eval()

    def write() -> Tensor:
        start = IDS[:1, :4]
        mask = torch.ones_like(start)
        return model.generate(start, attention_mask=mask, max_new_tokens=8, do_sample=False)

    before = write()
    apply(model)
    assert torch.equal(write(), before)


def test_new_blocks_take_the_type_of_the_block_that_they_copy() -> None:
    model = qwen()
    apply(model)
    full, window = "full_attention", "sliding_attention"
    assert model.config.layer_types == [full, full, full, window, window, window]
    numbers = [layer.self_attn.layer_idx for layer in model.model.layers]
    assert numbers == [0, 1, 2, 3, 4, 5]


def test_new_blocks_after_every_block() -> None:
    model = llama()
    adapter, bundle = apply(model, every=1)
    assert model.config.num_hidden_layers == 8
    (proof,) = adapter.proofs(bundle, {})
    assert "in 4 new blocks" in proof.evidence


def test_other_trained_weights_forbid_switching_off() -> None:
    model = llama()
    adapter, bundle = apply(model)
    model.get_parameter("lm_head.weight").requires_grad_(True)
    words = "adapter.block_expansion cannot be switched off: other weights"
    with pytest.raises(ConfigError, match=words), adapter.off(bundle):
        pass


@pytest.mark.parametrize(
    ("make", "every", "words"),
    [
        (
            llama,
            5,
            r"adapter.block_expansion.every is 5; expected 1\.\.4, the blocks of LlamaForCa",
        ),
        (
            lambda: BertForMaskedLM(BertConfig(**SIZES)),
            2,
            "does not fit BertForMaskedLM: its blocks change the states even if",
        ),
        (
            lambda: T5ForConditionalGeneration(T5Config(vocab_size=259, d_model=32, num_layers=2)),
            2,
            "T5ForConditionalGeneration keeps its 2 blocks in no single list",
        ),
    ],
    ids=["too few blocks", "norms after the sum", "an encoder and a decoder"],
)
def test_a_model_that_cannot_be_expanded_is_one_line(
    make: Callable[[], PreTrainedModel], every: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        apply(make(), every)
    assert "\n" not in str(caught.value)


def test_no_blocks_between_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"adapter.block_expansion.every is 0; expected 1 or more"
    ):
        BlockExpansion(every=0)


def test_a_run_leaves_a_deeper_checkpoint(home: Path, text_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = Bundle(llama(), byte_tokenizer(), CausalLMHead(CausalLM()))
    base = save_checkpoint(bundle, tmp_path / "base", {})
    overrides = [
        f"model.source={base}",
        f"data.path={text_file}",
        "adapter=[block_expansion]",
        "adapter.block_expansion.every=2",
        "data.max_length=32",
        "data.batch_size=4",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "stage.sample_tokens=0",
    ]
    result = run(compose(overrides))
    assert result.checkpoint is not None
    model = load_pretrained(AutoModelForCausalLM, Model(source=str(result.checkpoint)), {})
    assert model.config.num_hidden_layers == 6
    zeros = model.get_parameter("model.layers.2.self_attn.o_proj.weight")
    assert zeros.abs().max() > 0
