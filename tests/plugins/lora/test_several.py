"""Several adapters on one base: none sees what another one has learnt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.seeding import seed_everything
from ontogeny_plugins.lora import Lora, Peft
from ontogeny_plugins.lora.adapter import PeftAdapter

Logits = Callable[[PreTrainedModel], Tensor]
Put = Callable[[object, Bundle], PeftAdapter]


@pytest.fixture
def put(apply: Callable[[object, Bundle], Adapter]) -> Put:
    def inner(options: object, bundle: Bundle) -> PeftAdapter:
        adapter = apply(options, bundle)
        assert isinstance(adapter, PeftAdapter)
        return adapter

    return inner


def teach(adapter: PeftAdapter, bundle: Bundle, ids_BT: Tensor) -> None:
    """Train one adapter alone, the others being there."""
    named = bundle.model.named_parameters()
    own = [each for name, each in named if f".{adapter.name}" in name]
    optimizer = torch.optim.SGD(own, 0.3)
    for _ in range(3):
        with adapter.alone(bundle):
            bundle.model.train()(ids_BT).logits.square().mean().backward()
        optimizer.step()
        bundle.model.zero_grad(set_to_none=True)


MANY = [Lora(r=4), Lora(r=4, dora=True), Peft(method="ia3", target_modules=["q_proj", "up_proj"])]


@pytest.mark.parametrize("options", MANY, ids=str)
def test_training_one_leaves_what_the_other_computes_alone(
    options: object, bundle: Bundle, put: Put, logits: Logits, ids_BT: Tensor
) -> None:
    base = logits(bundle.model)
    policy = put(options, bundle)
    teach(policy, bundle, ids_BT)
    taught = logits(bundle.model)
    value = put(options, bundle)
    assert policy.name != value.name
    assert torch.equal(logits(bundle.model), taught)  # the second one starts as nothing
    teach(value, bundle, ids_BT.flip(0, 1))
    with policy.alone(bundle):
        assert torch.equal(logits(bundle.model), taught)
    with value.off(bundle):
        assert torch.equal(logits(bundle.model), taught)
    with value.alone(bundle):
        assert not torch.equal(logits(bundle.model), base)
        assert not torch.equal(logits(bundle.model), taught)
    with policy.off(bundle), value.off(bundle):
        assert torch.equal(logits(bundle.model), base)


def test_switching_leaves_names_and_gradients_as_they_were(bundle: Bundle, put: Put) -> None:
    policy, value = put(Lora(r=4), bundle), put(Lora(r=2), bundle)
    wanted = {name: each.requires_grad for name, each in bundle.model.named_parameters()}
    for adapter in (policy, value):
        with adapter.alone(bundle), adapter.off(bundle):
            pass
        with pytest.raises(RuntimeError), adapter.alone(bundle):
            raise RuntimeError
    assert wanted == {name: each.requires_grad for name, each in bundle.model.named_parameters()}
    assert sum(wanted.values()) == 2 * 2 * 14


def test_adapters_of_other_layers_and_ranks_do_not_meet(
    bundle: Bundle, put: Put, logits: Logits, ids_BT: Tensor
) -> None:
    base = logits(bundle.model)
    first = put(Lora(r=4, target_modules=["q_proj"]), bundle)
    second = put(Lora(r=2, target_modules=["q_proj", "up_proj"]), bundle)
    teach(second, bundle, ids_BT)
    with first.alone(bundle):
        assert torch.equal(logits(bundle.model), base)


def test_two_adapters_that_act_together_are_merged_together(
    bundle: Bundle, put: Put, logits: Logits, ids_BT: Tensor
) -> None:
    first, second = put(Lora(r=4), bundle), put(Lora(r=2, target_modules=["q_proj"]), bundle)
    teach(first, bundle, ids_BT)
    teach(second, bundle, ids_BT.flip(1))
    taught = logits(bundle.model)
    bundle = first.settle(second.settle(bundle))
    moved = (logits(bundle.model) - taught).abs().max() / taught.abs().max()
    assert float(moved) < 1e-5
    assert not [name for name in bundle.model.state_dict() if "lora" in name]
    assert all(each.requires_grad for each in bundle.model.parameters())


def test_two_adapters_cannot_be_kept_in_one_folder(bundle: Bundle, put: Put) -> None:
    put(Lora(r=4), bundle)
    bundle.model.name_or_path = "some/base"
    with pytest.raises(ConfigError, match="the model has another adapter: one folder holds one"):
        put(Lora(r=4, merge=False), bundle)


def test_two_models_with_adapters_know_nothing_of_each_other(
    bundle_of: Callable[[str], Bundle], put: Put, logits: Logits, ids_BT: Tensor
) -> None:
    left, right = bundle_of("llama"), bundle_of("llama")
    seed_everything("both")
    base = logits(left.model)
    adapters = [put(Lora(r=4), left), put(Lora(r=4), right)]
    teach(adapters[0], left, ids_BT)
    assert torch.equal(logits(right.model), base)
    adapters[0].settle(left)
    with adapters[1].off(right):
        assert torch.equal(logits(right.model), base)
