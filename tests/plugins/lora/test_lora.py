"""LoRA: where it starts, what it trains, how it is switched off, and what it is merged to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.data.collation import collate_tokens
from ontogeny.optimization import Rates, parameter_groups
from ontogeny_plugins.lora import Lora
from ontogeny_plugins.lora.targets import outside_adapters

Logits = Callable[[PreTrainedModel], Tensor]
Apply = Callable[..., Adapter]
Train = Callable[..., list[float]]
# Each starts with a change of exactly zero.
EXACT: list[dict[str, object]] = [
    {},
    {"dora": True},
    {"rslora": True},
    {"b_lr_ratio": 16.0},
    {"init": "gaussian"},
    {"init": "mica"},
    {"dropout": 0.1},
    {"options": {"velora_config": {"num_groups": 4}}},
    {"options": {"use_qalora": True, "qalora_group_size": 8}},
    {"options": {"use_bdlora": {"nblocks": 2, "match_strict": False}}},
    {"options": {"rank_pattern": {"q_proj": 2, "c_attn": 2, "query": 2}}},
]


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("options", EXACT, ids=str)
def test_it_starts_as_its_base_bit_for_bit_and_merges_to_what_it_computes(
    options: dict[str, object],
    family: str,
    bundle_of: Callable[[str], Bundle],
    apply: Apply,
    logits: Logits,
    train: Train,
) -> None:
    if "rank_pattern" in str(options):
        options = {"options": {"rank_pattern": {FIRST[family]: 2}}}
    bundle = bundle_of(family)
    model, before = bundle.model, logits(bundle.model)
    names = set(model.state_dict())
    adapter = apply(Lora(r=4, **options), bundle)
    assert torch.equal(logits(model), before)
    train(bundle)
    taught = logits(model)
    assert not torch.equal(taught, before)
    with adapter.off(bundle):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), taught)
    merged = adapter.settle(bundle).model
    assert merged is model
    assert set(model.state_dict()) == names
    assert relative(logits(model), taught) < 1e-5


FIRST = {"llama": "q_proj", "gpt2": "c_attn", "bert": "query"}


def test_the_change_is_alpha_over_r_times_b_times_a(bundle: Bundle, apply: Apply) -> None:
    before = bundle.model.get_submodule("model.layers.0.self_attn.q_proj").weight.clone()
    adapter = apply(Lora(r=4, alpha=6.0), bundle)
    layer: Any = bundle.model.get_submodule("model.layers.0.self_attn.q_proj")
    factors = [torch.randn(4, 32), torch.randn(32, 4)]
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = factors
    adapter.settle(bundle)
    after = bundle.model.get_submodule("model.layers.0.self_attn.q_proj").weight
    torch.testing.assert_close(after, before + 6.0 / 4 * factors[1] @ factors[0])


def test_rslora_scales_by_the_root_of_the_rank(bundle: Bundle, apply: Apply) -> None:
    apply(Lora(r=4, alpha=6.0, rslora=True), bundle)
    layer: Any = bundle.model.get_submodule("model.layers.0.self_attn.q_proj")
    assert layer.scaling["default"] == pytest.approx(6.0 / 2)


def test_the_model_keeps_its_class_and_its_own_weights_are_frozen(
    bundle: Bundle, apply: Apply
) -> None:
    apply(Lora(r=4), bundle)
    model = bundle.model
    assert type(model) is LlamaForCausalLM
    own = outside_adapters(model)
    assert set(own) == set(dict(LlamaForCausalLM(model.config).named_parameters()))
    assert not any(each.requires_grad for each in own.values())
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    # A and B of the seven linear layers of two blocks
    assert len(trained) == 2 * 7 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)


def test_a_model_that_was_merged_is_trainable_as_it_was_before(
    bundle: Bundle, apply: Apply
) -> None:
    frozen = "model.norm.weight"
    bundle.model.get_parameter(frozen).requires_grad_(False)
    apply(Lora(r=4), bundle).settle(bundle)
    left = [name for name, each in bundle.model.named_parameters() if not each.requires_grad]
    assert left == [frozen]
    assert not any(isinstance(each, BaseTunerLayer) for each in bundle.model.modules())
    assert not hasattr(bundle.model, "peft_config")


def test_the_model_generates_as_its_base_at_step_zero(bundle: Bundle, apply: Apply) -> None:
    def write() -> Tensor:
        start = torch.tensor([[5, 6, 7]])
        return bundle.model.eval().generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=5, do_sample=False
        )

    before = write()
    apply(Lora(r=4), bundle)
    assert torch.equal(write(), before)


def test_lora_plus_gives_b_another_learning_rate(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=4, b_lr_ratio=16.0), bundle)
    groups: Any = parameter_groups(
        bundle.model, Rates(0.1, 0.0), list(adapter.parameter_groups(bundle))
    )
    shapes = {group["lr"]: {tuple(each.shape) for each in group["params"]} for group in groups}
    assert sorted(shapes) == [0.1, 1.6]
    assert all(shape[0] == 4 for shape in shapes[0.1])  # A
    assert all(shape[1] == 4 for shape in shapes[1.6])  # B


def test_vectors_that_dora_trains_are_not_decayed(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=4, dora=True), bundle)
    groups: Any = parameter_groups(
        bundle.model, Rates(0.1, 0.5), list(adapter.parameter_groups(bundle))
    )
    decays = {each.dim(): group["weight_decay"] for group in groups for each in group["params"]}
    assert decays == {1: 0.0, 2: 0.5}


def test_gradients_are_those_of_a_model_that_keeps_its_activations(
    bundle_of: Callable[[str], Bundle], apply: Apply, ids_BT: Tensor
) -> None:
    gradients = []
    for checkpointing in (False, True):
        bundle = bundle_of("llama")
        apply(Lora(r=4), bundle)
        if checkpointing:
            bundle.model.activation_checkpointing_enable()
        bundle.model.train()(ids_BT).logits.square().mean().backward()
        trained = [each for each in bundle.model.parameters() if each.requires_grad]
        gradients.append([each.grad for each in trained])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_the_state_of_an_injected_model_is_loaded_into_another_one(
    bundle_of: Callable[[str], Bundle], apply: Apply, train: Train, logits: Logits
) -> None:
    bundles = [bundle_of("llama"), bundle_of("llama")]
    for bundle in bundles:
        apply(Lora(r=4, dora=True), bundle)
    train(bundles[0])
    bundles[1].model.load_state_dict(bundles[0].model.state_dict())
    assert torch.equal(*(logits(bundle.model) for bundle in bundles))


def test_proofs_tell_how_much_is_trained_where_it_starts_and_that_it_merges(
    bundle: Bundle, apply: Apply, ids_BT: Tensor, train: Train
) -> None:
    adapter = apply(Lora(r=4), bundle)
    batch = collate_tokens([{"input_ids": ids_T.numpy()} for ids_T in ids_BT])
    share, start, merge = adapter.proofs(bundle, batch)
    # r · (in + out) of each layer: q, o: 64; k, v: 48; gate, up, down: 96
    assert share.evidence.startswith(f"{2 * 4 * (2 * 64 + 2 * 48 + 3 * 96):,} of ")
    assert (start.holds, start.evidence) == (True, "outputs move by 0.0e+00, relative")
    assert merge.holds
    train(bundle)
    _, start, _ = adapter.proofs(bundle, batch)
    assert start.holds is False


def test_directly_trained_weights_forbid_switching_off(
    bundle: Bundle, apply: Apply, logits: Logits
) -> None:
    """PEFT's own adapter-off would keep what was trained in the embeddings."""
    adapter = apply(Lora(r=4), bundle)
    bundle.model.get_input_embeddings().weight.requires_grad_(True)
    words = r"adapter.lora cannot be switched off: 1 of the model's own weights.*embed_tokens"
    with pytest.raises(ConfigError, match=words), adapter.off(bundle):
        logits(bundle.model)


def test_embeddings_that_are_trained_beside_are_there_after_the_merge(
    bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    adapter = apply(Lora(r=4, train_also=["embed_tokens", "lm_head"]), bundle)
    before = bundle.model.get_input_embeddings().weight.clone()
    train(bundle)
    taught = logits(bundle.model)
    assert not torch.equal(bundle.model.get_input_embeddings().weight, before)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


def test_what_another_adapter_trains_stays_trained_and_is_merged_too(
    bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    """As the vocabulary's: it wants its rows trained after all adapters are in."""
    adapter = apply(Lora(r=4), bundle)
    embedding = bundle.model.get_input_embeddings().weight.requires_grad_(True)
    before = embedding.detach().clone()
    train(bundle)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    assert not torch.equal(bundle.model.get_input_embeddings().weight, before)
    assert relative(logits(bundle.model), taught) < 1e-5


def test_the_biases_of_adapted_layers_can_be_trained_through_pefts_option(
    bundle_of: Callable[[str], Bundle], apply: Apply, logits: Logits, train: Train
) -> None:
    bundle = bundle_of("gpt2")
    adapter = apply(Lora(r=4, options={"bias": "lora_only"}), bundle)
    own = outside_adapters(bundle.model)
    assert {name.rpartition(".")[2] for name in own if own[name].requires_grad} == {"bias"}
    train(bundle)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


def test_experts_that_are_one_tensor_are_adapted_by_the_name_of_their_weights(
    bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    bundle.model = MixtralForCausalLM(MixtralConfig(vocab_size=259, **sizes, **heads))
    before = logits(bundle.model)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = apply(Lora(r=4, options={"target_parameters": names}), bundle)
    assert torch.equal(logits(bundle.model), before)
    assert not any(each.requires_grad for each in outside_adapters(bundle.model).values())
    train(bundle)
    taught = logits(bundle.model)
    with adapter.off(bundle):
        assert torch.equal(logits(bundle.model), before)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, "adapter.lora.r is 0; expected 1 or more"),
        ({"alpha": 0.0}, "adapter.lora.alpha is 0.0; expected over 0"),
        ({"b_lr_ratio": -1.0}, "adapter.lora.b_lr_ratio is -1.0"),
        ({"dropout": 1.0}, "adapter.lora.dropout is 1.0; expected 0 <= dropout < 1"),
        ({"init": "pisa"}, "adapter.lora.init is 'pisa'; expected one of default, .*pissa"),
        ({"init": "pissa_niter_"}, "adapter.lora.init is 'pissa_niter_'"),
        ({"init": "loftq", "merge": False}, "set adapter.lora.merge=true"),
        ({"init_batches": 0}, "adapter.lora.init_batches is 0"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Lora(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_alpha": 3}, "options.lora_alpha has an option of its own: adapter.lora.alpha"),
        ({"rank_patern": {}}, r"no option adapter.lora.options.rank_patern \(did you mean 'rank_p"),
        ({"modules_to_save": ["x"]}, "modules_to_save is not offered: name the modules in train_a"),
        ({"kasa_config": {}}, "kasa_config is not offered: its loss has terms of its own"),
        ({"task_type": "CAUSAL_LM"}, "no option adapter.lora.options.task_type"),
        ({"bias": "some"}, "adapter.lora: PEFT refuses: .*some"),
    ],
)
def test_an_option_of_peft_is_checked_against_its_configuration(
    options: dict[str, object], words: str, bundle: Bundle, apply: Apply
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        apply(Lora(r=4, options=options), bundle)
    assert "\n" not in str(caught.value)
