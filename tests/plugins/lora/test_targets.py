"""Which layers carry an adapter; what is misnamed is found before the run, with what exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from transformers import LlamaForSequenceClassification

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny_plugins.lora import AdaLora, Lora
from ontogeny_plugins.lora.injection import injection_of

Apply = Callable[..., Adapter]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(bundle: Bundle) -> set[str]:
    return set(injection_of(bundle.model).tuner.targeted_module_names)


def test_all_linear_layers_but_the_output_are_adapted(bundle: Bundle, apply: Apply) -> None:
    apply(Lora(r=4), bundle)
    linear = adapted(bundle)
    assert len(linear) == 2 * len(LINEAR)
    assert {name.rpartition(".")[2] for name in linear} == set(LINEAR)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["q_proj", "v_proj"], "layers": [1]}, {"1.q_proj", "1.v_proj"}),
        ({"target_modules": ["layers.0.self_attn.q_proj"]}, {"0.q_proj"}),
        ({"target_modules": [r".*\.0\..*[qk]_proj"]}, {"0.q_proj", "0.k_proj"}),
        (
            {"exclude_modules": [r".*mlp.*", "o_proj", "k_proj", "v_proj"]},
            {"0.q_proj", "1.q_proj"},
        ),
        ({"target_modules": []}, {f"{block}.{name}_proj" for block in (0, 1) for name in "qv"}),
        ({"target_modules": ["embed_tokens", "lm_head"]}, {"embed_tokens", "lm_head"}),
    ],
    ids=str,
)
def test_layers_are_chosen_by_names_ends_patterns_and_blocks(
    options: dict[str, list[object]], expected: set[str], bundle: Bundle, apply: Apply
) -> None:
    apply(Lora(r=4, **options), bundle)
    found = {name.replace("model.layers.", "") for name in adapted(bundle)}
    short = {f"{name.partition('.')[0]}.{name.rpartition('.')[2]}" for name in found}
    assert {name.replace("model.", "").replace("lm_head.", "") for name in short} == expected


def test_a_head_over_no_vocabulary_is_trained_whole_and_not_adapted(
    bundle: Bundle, apply: Apply
) -> None:
    bundle.model = LlamaForSequenceClassification(bundle.model.config)
    apply(Lora(r=4), bundle)
    assert "score" not in adapted(bundle)
    assert bundle.model.get_parameter("score.weight").requires_grad


def test_an_empty_list_trains_no_head(bundle: Bundle, apply: Apply) -> None:
    bundle.model = LlamaForSequenceClassification(bundle.model.config)
    apply(Lora(r=4, train_also=[], exclude_modules=["score"]), bundle)
    assert not bundle.model.get_parameter("score.weight").requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"target_modules": ["q_prj"]},
            r"has 'q_prj', which matches nothing \(did you mean 'q_proj'\?\); Llama.* has down_",
        ),
        ({"target_modules": ["q_proj", "query"]}, "target_modules has 'query', which matches noth"),
        ({"target_modules": ["q_proj["]}, "no name of a layer and no regular expression"),
        ({"exclude_modules": ["lm_heads"]}, "adapter.lora.exclude_modules has 'lm_heads', which"),
        ({"exclude_modules": [".*"]}, "adapter.lora: no layer is left of"),
        ({"train_also": ["scores"]}, "adapter.lora.train_also has 'scores', which matches nothing"),
        ({"layers": [2]}, "adapter.lora.layers has 2; expected 0..1, the blocks of the model"),
        ({"r": 33}, "adapter.lora.r is 33; expected 1..16, the width of .*layers.0.self_attn.k_"),
        (
            {"target_modules": ["q_proj"], "train_also": ["layers.0.self_attn"]},
            "names model.layers.0.self_attn.q_proj, which adapter.lora.train_also trains whole",
        ),
        ({"target_modules": [], "layers": [0]}, "adapter.lora.layers is set, but .* PEFT's own"),
        ({"target_modules": ["model.norm"]}, "adapter.lora: PEFT refuses: Target module .*Norm"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_with_its_key(
    options: dict[str, object], words: str, bundle: Bundle, apply: Apply
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        apply(Lora(**{"r": 4, **options}), bundle)
    assert "\n" not in str(caught.value)


def test_an_initial_rank_above_the_width_is_one_line(bundle: Bundle, apply: Apply) -> None:
    with pytest.raises(ConfigError, match=r"adapter.adalora.init_r is 40; expected 1..16, the w"):
        apply(AdaLora(init_r=40), bundle)


def test_the_narrower_side_of_a_layer_bounds_the_rank(bundle: Bundle, apply: Apply) -> None:
    """k_proj of grouped queries has 16 outputs."""
    with pytest.raises(ConfigError, match=r"expected 1..16, the width of .*k_proj"):
        apply(Lora(r=20, target_modules=["k_proj"]), bundle)


@pytest.mark.parametrize("name", ["lm_head", "wte"])
def test_embeddings_with_shared_weights_are_refused(
    name: str, bundle_of: Callable[[str], Bundle], apply: Apply
) -> None:
    words = f"names .*{name}, which shares its weights between input and output"
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4, target_modules=[name]), bundle_of("gpt2"))


def test_a_second_method_on_the_same_model_is_refused(bundle: Bundle, apply: Apply) -> None:
    apply(Lora(r=4), bundle)
    words = "adapter.adalora: PEFT refuses: the model has an adapter of another method: lora"
    with pytest.raises(ConfigError, match=words):
        apply(AdaLora(), bundle)


def test_a_layer_that_cannot_be_merged_is_found_out_before_the_run(
    bundle: Bundle, apply: Apply
) -> None:
    bundle.model.model.layers[0].add_module("conv", nn.Conv1d(32, 32, 3, groups=4))
    words = "adapter.lora cannot be merged into LlamaForCausalLM: .*group.*set adapter.lora.merge="
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4, target_modules=["conv"]), bundle)


def test_dora_refuses_layers_that_it_does_not_know(bundle: Bundle, apply: Apply) -> None:
    bundle.model.model.layers[0].add_module("attention", nn.MultiheadAttention(32, 4))
    with pytest.raises(ConfigError, match=r"adapter.lora: PEFT refuses: .*DoRA"):
        apply(Lora(r=4, dora=True, target_modules=["attention"]), bundle)
