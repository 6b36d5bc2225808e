"""Freezing by depth and by name; and training all."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny import ConfigError, compose
from ontogeny.adapter import Adapter, Bundle
from ontogeny.plugins import registry
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.causal_lm import CausalLM
from ontogeny_plugins.causal_lm.head import CausalLMHead
from ontogeny_plugins.freeze import Freeze, Full

FAMILIES = {
    "llama": LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
        )
    ),
    "gpt2": GPT2LMHeadModel(
        GPT2Config(vocab_size=259, n_embd=32, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
    ),
    "bert": BertForMaskedLM(
        BertConfig(
            vocab_size=259,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
        )
    ),
}


@pytest.fixture(params=["llama"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return FAMILIES[request.param].requires_grad_(True)


def apply(options: object, model: PreTrainedModel) -> tuple[Adapter, Bundle]:
    adapter = registry().build(options)
    assert isinstance(adapter, Adapter)
    bundle = Bundle(model, byte_tokenizer(), CausalLMHead(CausalLM()))
    return adapter, adapter.apply(bundle)


def frozen(model: PreTrainedModel) -> set[str]:
    return {name for name, each in model.named_parameters() if not each.requires_grad}


@pytest.mark.parametrize(
    ("model", "blocks"),
    [("llama", "model.layers."), ("gpt2", "transformer.h."), ("bert", "bert.encoder.layer.")],
    indirect=["model"],
)
def test_the_first_blocks_are_frozen(model: PreTrainedModel, blocks: str) -> None:
    apply(Freeze(first_blocks=2), model)
    first = {
        name
        for name, _ in model.named_parameters()
        if name.startswith((f"{blocks}0.", f"{blocks}1."))
    }
    assert frozen(model) == first
    assert first


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama", {"model.embed_tokens.weight"}),
        ("gpt2", {"transformer.wte.weight", "transformer.wpe.weight"}),
        (
            "bert",
            {
                f"bert.embeddings.{name}_embeddings.weight"
                for name in ("word", "position", "token_type")
            },
        ),
    ],
    indirect=["model"],
)
def test_the_embeddings_are_frozen(model: PreTrainedModel, names: set[str]) -> None:
    apply(Freeze(embeddings=True), model)
    assert frozen(model) == names


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"names": ["lm_head"]}, {"lm_head.weight"}),
        (
            {"names": ["model.norm.weight", "layers.0.mlp"]},
            {
                "model.norm.weight",
                *(f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
            },
        ),
        (
            {"names": [r".*\.[12]\..*k_proj.*"]},
            {f"model.layers.{block}.self_attn.k_proj.weight" for block in (1, 2)},
        ),
    ],
    ids=str,
)
def test_weights_are_frozen_by_name(
    options: dict[str, list[str]], expected: set[str], model: PreTrainedModel
) -> None:
    apply(Freeze(**options), model)
    assert frozen(model) == expected


def test_what_is_named_can_be_all_that_is_trained(model: PreTrainedModel) -> None:
    apply(Freeze(train_only=["lm_head", r".*norm.*"]), model)
    trained = {name for name, _ in model.named_parameters()} - frozen(model)
    assert trained == {
        "lm_head.weight",
        "model.norm.weight",
        *(
            f"model.layers.{block}.{name}_layernorm.weight"
            for block in range(3)
            for name in ("input", "post_attention")
        ),
    }


def test_what_was_frozen_is_trainable_in_the_end_and_no_more(model: PreTrainedModel) -> None:
    model.get_parameter("lm_head.weight").requires_grad_(False)
    adapter, bundle = apply(Freeze(first_blocks=1, names=["lm_head"]), model)
    adapter.settle(bundle)
    assert frozen(model) == {"lm_head.weight"}


def test_a_proof_tells_how_much_is_trained(model: PreTrainedModel) -> None:
    adapter, bundle = apply(Freeze(train_only=["model.norm"]), model)
    (proof,) = adapter.proofs(bundle, {})
    assert proof.evidence.startswith("32 of ")


def test_frozen_weights_cannot_be_switched_off(model: PreTrainedModel) -> None:
    adapter, bundle = apply(Freeze(first_blocks=1), model)
    with pytest.raises(ConfigError, match="cannot be switched off"):
        adapter.off(bundle)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "adapter.freeze freezes nothing: set first_blocks, embeddings, names or train_only"),
        ({"first_blocks": -1}, "adapter.freeze.first_blocks is -1; expected 0 or more"),
        (
            {"first_blocks": 4},
            r"adapter.freeze.first_blocks is 4; expected 0\.\.3, the blocks of L",
        ),
        (
            {"names": ["embed_token"]},
            r"adapter.freeze.names has 'embed_token', which matches nothing \(did you mean 'emb",
        ),
        ({"train_only": ["h.1"]}, "adapter.freeze.train_only has 'h.1', which matches nothing"),
        ({"names": ["a["]}, "no name of a layer and no regular expression"),
        ({"names": [".*"]}, "adapter.freeze leaves nothing of LlamaForCausalLM to train"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_with_its_key(
    options: dict[str, object], words: str, model: PreTrainedModel
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        apply(Freeze(**options), model)
    assert "\n" not in str(caught.value)


def test_full_trains_everything_and_says_so(model: PreTrainedModel) -> None:
    adapter, bundle = apply(Full(), model)
    assert frozen(model) == set()
    (proof,) = adapter.proofs(bundle, {})
    assert proof.evidence.endswith("(100.000%)")
    assert adapter.settle(bundle) is bundle


def test_full_refuses_weights_in_few_bits(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "is_quantized", True, raising=False)
    with pytest.raises(ConfigError, match=r"adapter=\[full\] cannot train weights in few bits"):
        apply(Full(), model)


def test_a_sweep_can_compare_full_training_with_an_adapter() -> None:
    chosen = [compose([f"adapter=[{name}]"]).stages["pretraining"] for name in ("full", "lora")]
    assert [list(stage.adapter) for stage in chosen] == [["full"], ["lora"]]


def test_frozen_weights_do_not_move(model: PreTrainedModel) -> None:
    apply(Freeze(first_blocks=2), model)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(torch.arange(9)[None]).logits.square().mean().backward()
    optimizer.step()
    still = {name for name, each in model.state_dict().items() if torch.equal(each, before[name])}
    assert still == frozen(model)
    model.load_state_dict(before)
    model.zero_grad(set_to_none=True)
