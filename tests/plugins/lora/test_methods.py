"""Every method that PEFT offers beside LoRA: it starts, learns, is switched off and merged."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

import pytest
import torch
from peft.config import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny_plugins.lora import Peft
from ontogeny_plugins.lora.methods import METHODS, REFUSED
from ontogeny_plugins.lora.targets import outside_adapters

Logits = Callable[[PreTrainedModel], Tensor]
Apply = Callable[..., Adapter]
# Sizes that fit layers of width 32 and 64.
OPTIONS: dict[str, dict[str, object]] = {
    "adamss": {"r": 8, "num_subspaces": 2},
    "c3a": {"block_size": 16},
    "fourierft": {"n_frequency": 20},
    "gralora": {"r": 4},
    "hira": {"r": 4},
    "lily": {"r": 4},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "peanut": {"r": 4},
    "psoft": {"r": 4},
    "pvera": {"r": 8},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "vblora": {"num_vectors": 16, "vector_length": 16},
    "vera": {"r": 8},
    "waveft": {"n_frequency": 20},
}
UNMERGEABLE = {"lily", "beft"}  # BEFT adds biases, which a Llama's layers lack
ON_GPT2 = (  # its layers are Conv1D, which the others refuse
    *("deft", "fourierft", "frod", "gralora", "hira", "ia3", "ln_tuning"),
    *("pvera", "randlora", "tinylora", "unilora", "vblora", "vera", "waveft"),
)


def options_of(method: str, **changes: object) -> Peft:
    package = METHODS[method].package
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{method} needs {package}, which is not installed")
    own = method in {"ia3", "ln_tuning"}
    given: dict[str, object] = {"target_modules": []} if own else {}
    return Peft(method=method, options=OPTIONS.get(method, {}), **{**given, **changes})


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def check(
    method: str, bundle: Bundle, apply: Apply, train: Callable[..., list[float]], logits: Logits
) -> None:
    model = bundle.model
    before = logits(model)
    names = set(model.state_dict())
    adapter = apply(options_of(method), bundle)
    assert (relative(logits(model), before) <= adapter.tolerance) == adapter.keeps_function
    losses = train(bundle)
    assert all(isfinite(loss) for loss in losses)
    taught = logits(model)
    assert not torch.equal(taught, before)
    with adapter.off(bundle):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), taught)
    adapter.settle(bundle)
    assert set(model.state_dict()) == names
    assert relative(logits(model), taught) < 1e-5
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", sorted(METHODS.keys() - UNMERGEABLE))
def test_a_method_learns_and_merges(
    method: str,
    bundle: Bundle,
    apply: Apply,
    train: Callable[..., list[float]],
    logits: Logits,
) -> None:
    check(method, bundle, apply, train, logits)


@pytest.mark.parametrize("method", ON_GPT2)
def test_a_method_learns_and_merges_on_transposed_layers(
    method: str,
    bundle_of: Callable[[str], Bundle],
    apply: Apply,
    train: Callable[..., list[float]],
    logits: Logits,
) -> None:
    check(method, bundle_of("gpt2"), apply, train, logits)


@pytest.mark.parametrize("method", sorted(UNMERGEABLE))
def test_what_cannot_be_merged_is_refused_before_the_run(
    method: str, bundle: Bundle, apply: Apply
) -> None:
    with pytest.raises(
        ConfigError, match=r"adapter.(lily|beft) cannot be merged into Llama.*merge=false"
    ):
        apply(options_of(method), bundle)


@pytest.mark.parametrize("method", sorted(UNMERGEABLE))
def test_what_cannot_be_merged_can_be_kept(
    method: str,
    bundle: Bundle,
    apply: Apply,
    train: Callable[..., list[float]],
    logits: Logits,
    base: Path,
) -> None:
    bundle.model.name_or_path = str(base)
    before = logits(bundle.model)
    adapter = apply(options_of(method, merge=False), bundle)
    assert torch.equal(logits(bundle.model), before)
    train(bundle)
    assert not torch.equal(logits(bundle.model), before)
    with adapter.off(bundle):
        assert torch.equal(logits(bundle.model), before)


def test_every_method_of_the_installed_peft_is_offered_or_refused_with_a_reason() -> None:
    assert {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == {*METHODS, *REFUSED}


@pytest.mark.parametrize(
    "method",
    [
        kind.value.lower()
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if issubclass(config, PromptLearningConfig)
    ],
)
def test_methods_of_virtual_tokens_are_refused(method: str, bundle: Bundle, apply: Apply) -> None:
    with pytest.raises(ConfigError, match="is not offered: it puts virtual tokens in front"):
        apply(Peft(method=method), bundle)


def test_a_method_that_does_not_exist_is_one_line(bundle: Bundle, apply: Apply) -> None:
    with pytest.raises(ConfigError, match=r"'verra', which PEFT lacks \(did you mean 'vera'"):
        apply(Peft(method="verra"), bundle)


def test_an_option_that_the_method_lacks_is_one_line(bundle: Bundle, apply: Apply) -> None:
    words = r"no option adapter.vera.options.vera_dropot \(did you mean 'vera_dropout'"
    with pytest.raises(ConfigError, match=words):
        apply(Peft(method="vera", options={"vera_dropot": 0.1}), bundle)


def test_a_value_that_the_method_refuses_is_one_line(bundle: Bundle, apply: Apply) -> None:
    with pytest.raises(ConfigError, match=r"adapter.c3a: PEFT refuses: .*block") as caught:
        apply(Peft(method="c3a", options={"block_size": 7}), bundle)
    assert "\n" not in str(caught.value)


def test_a_rank_above_the_width_is_one_line(bundle: Bundle, apply: Apply) -> None:
    words = r"adapter.loha.options.r is 40; expected 1..16, the width of model.layers.0"
    with pytest.raises(ConfigError, match=words):
        apply(Peft(method="loha", options={"r": 40}), bundle)


def test_only_the_adapter_is_trained(bundle: Bundle, apply: Apply) -> None:
    apply(options_of("ia3"), bundle)
    assert not any(each.requires_grad for each in outside_adapters(bundle.model).values())
    trained = [name for name, each in bundle.model.named_parameters() if each.requires_grad]
    assert trained
    assert all("ia3_l" in name for name in trained)


def test_factors_are_not_decayed_towards_zero(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(options_of("ia3"), bundle)
    (group,) = adapter.parameter_groups(bundle)
    assert group.weight_decay == 0.0
    trained = [each for each in bundle.model.parameters() if each.requires_grad]
    assert len(group.parameters) == len(trained)
