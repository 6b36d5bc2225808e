"""Inits that take A and B out of the weights, or start from the first batches of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.data.collation import collate_tokens
from ontogeny.objective import Batch
from ontogeny.seeding import seed_everything
from ontogeny_plugins.lora import Lora
from ontogeny_plugins.lora.loftq import nf4

Logits = Callable[[PreTrainedModel], Tensor]
Apply = Callable[..., Adapter]
Train = Callable[..., list[float]]
SPLIT = ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"]
FROM_DATA = ["eva", "corda", "lora_ga"]
QUERY = "model.layers.0.self_attn.q_proj"


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def batches(count: int = 3, length: int = 24) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    made = []
    for _ in range(count):
        ids_BT = torch.randint(259, (4, length + 1), generator=generator).numpy()
        rows = [{"input_ids": row[:-1], "labels": row[1:]} for row in ids_BT]
        made.append(collate_tokens(rows))
    return made


def start(options: Lora, bundle: Bundle, apply: Apply) -> Adapter:
    adapter = apply(options, bundle)
    seed_everything("initialise")
    adapter.initialise(bundle, iter(batches()))
    return adapter


@pytest.mark.parametrize("init", [*SPLIT, "orthogonal"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_the_model_computes_the_same_up_to_rounding(
    init: str, dora: bool, bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    before = logits(bundle.model)
    adapter = start(Lora(r=4, init=init, dora=dora), bundle, apply)
    assert adapter.keeps_function
    assert 0 < relative(logits(bundle.model), before) < 1e-5
    train(bundle)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


@pytest.mark.parametrize("init", SPLIT)
def test_what_takes_its_start_out_of_the_weights_has_no_way_back(
    init: str, bundle: Bundle, apply: Apply
) -> None:
    adapter = start(Lora(r=4, init=init), bundle, apply)
    words = "its init changes the model's own weights.*frozen copy"
    with pytest.raises(ConfigError, match=words), adapter.off(bundle):
        pass


@pytest.mark.parametrize("init", SPLIT)
def test_a_proof_tells_how_far_the_weights_are_from_the_bases(
    init: str, bundle: Bundle, apply: Apply
) -> None:
    adapter = start(Lora(r=4, init=init), bundle, apply)
    (proof,) = [
        each for each in adapter.proofs(bundle, batches()[0]) if "starts as its base" in each.name
    ]
    assert proof.holds
    assert "q_proj add up to it but for" in proof.evidence


def test_pissa_starts_with_the_principal_part_of_the_weights(bundle: Bundle, apply: Apply) -> None:
    """A and B are √S of the largest singular values: Meng et al. 2024, eq. 2 and 3."""
    weight = bundle.model.get_submodule(QUERY).weight.detach().clone()
    apply(Lora(r=4, alpha=4.0, init="pissa"), bundle)
    layer: Any = bundle.model.get_submodule(QUERY)
    left, values, right = torch.linalg.svd(weight)
    principal = left[:, :4] @ values[:4].diag() @ right[:4]
    torch.testing.assert_close(layer.get_delta_weight("default"), principal, atol=1e-5, rtol=0)


def test_eva_starts_as_its_base_bit_for_bit_along_what_layers_are_given(
    bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    before = logits(bundle.model)
    options = Lora(r=4, init="eva", options={"eva_config": {"rho": 1.0}})
    adapter = start(options, bundle, apply)
    assert torch.equal(logits(bundle.model), before)
    layer: Any = bundle.model.get_submodule(QUERY)
    rows = layer.lora_A["default"].weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-4, rtol=0)  # singular vectors
    train(bundle)
    taught = logits(bundle.model)
    with adapter.off(bundle):
        assert torch.equal(logits(bundle.model), before)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


def test_eva_moves_ranks_between_layers_and_keeps_their_number(
    bundle: Bundle, apply: Apply, logits: Logits, train: Train
) -> None:
    adapter = start(Lora(r=4, init="eva"), bundle, apply)
    named = bundle.model.named_parameters()
    ranks = [len(each) for name, each in named if ".lora_A." in name]
    assert len(set(ranks)) > 1
    assert sum(ranks) == 4 * 2 * 7
    train(bundle)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


@pytest.mark.parametrize("init", FROM_DATA)
def test_the_same_batches_give_the_same_start(
    init: str, bundle_of: Callable[[str], Bundle], apply: Apply
) -> None:
    states = []
    for _ in range(2):
        bundle = bundle_of("llama")
        start(Lora(r=4, init=init), bundle, apply)
        states.append(bundle.model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("init", FROM_DATA)
def test_what_is_trained_beside_is_still_trained_after_the_start(
    init: str, bundle: Bundle, apply: Apply
) -> None:
    start(Lora(r=4, init=init, train_also=["model.norm"]), bundle, apply)
    assert bundle.model.get_parameter("model.norm.weight").requires_grad
    trained = [name for name, each in bundle.model.named_parameters() if each.requires_grad]
    assert all("lora_" in name or name == "model.norm.weight" for name in trained)


@pytest.mark.parametrize("init", FROM_DATA)
def test_batches_without_tokens_are_refused(init: str, bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=4, init=init), bundle)
    pairs = [{"chosen_input_ids": torch.ones(2, 4), "rejected_input_ids": torch.ones(2, 4)}]
    words = (
        f"adapter.lora.init={init} starts from batches with input_ids; those of this run: chosen"
    )
    with pytest.raises(ConfigError, match=words):
        adapter.initialise(bundle, pairs)


def test_too_few_tokens_for_eva_are_refused(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=8, init="eva"), bundle)
    words = r"looks for 16 components .* but one has only 12 labelled tokens: raise data.batch_size"
    with pytest.raises(ConfigError, match=words):
        adapter.initialise(bundle, batches(length=3))


def test_more_components_than_a_layer_is_wide_are_one_line(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=16, init="eva", options={"eva_config": {"rho": 3.0}}), bundle)
    with pytest.raises(ConfigError, match=r"adapter.lora.init=eva: PEFT refuses: n_components=48"):
        adapter.initialise(bundle, batches())


def test_components_that_do_not_settle_end_in_an_error_and_not_never(
    bundle: Bundle, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontogeny_plugins.lora.data_init.PASSES", 1)
    adapter = apply(Lora(r=4, init="eva"), bundle)
    with pytest.raises(ConfigError, match="have not settled after 1 passes"):
        adapter.initialise(bundle, batches(count=1))


def test_lora_ga_needs_a_label_for_each_token(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(Lora(r=4, init="lora_ga"), bundle)
    rows = {"input_ids": torch.ones(2, 4, dtype=torch.long), "labels": torch.ones(2)}
    with pytest.raises(ConfigError, match="init=lora_ga needs a label for each token"):
        adapter.initialise(bundle, [rows])


def test_the_options_of_an_init_are_checked(bundle: Bundle, apply: Apply) -> None:
    options = Lora(r=4, init="eva", options={"eva_config": {"rh": 1.0}})
    with pytest.raises(ConfigError, match=r"adapter.lora.options.eva_config: .*'rh'"):
        apply(options, bundle)


def test_what_pefts_olora_cannot_do_with_transposed_layers_is_one_line(
    bundle_of: Callable[[str], Bundle], apply: Apply
) -> None:
    words = "init is 'olora', which PEFT cannot do with the transposed layers of GPT2LMHeadModel"
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4, init="olora"), bundle_of("gpt2"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loftq_rounds_the_base_to_four_bits_and_makes_up_for_most_of_it(
    family: str, bundle_of: Callable[[str], Bundle], apply: Apply, logits: Logits, train: Train
) -> None:
    bundle = bundle_of(family)
    name = QUERY if family == "llama" else "transformer.h.0.attn.c_attn"
    weight = bundle.model.get_submodule(name).weight.detach().clone()
    adapter = apply(Lora(r=8, init="loftq"), bundle)
    assert not adapter.keeps_function
    layer: Any = bundle.model.get_submodule(name)
    rounded = layer.get_base_layer().weight
    assert torch.equal(nf4(rounded), rounded)
    assert len(rounded.flatten()[:64].unique()) <= 16
    plain, left = weight - nf4(weight), weight - rounded - layer.get_delta_weight("default")
    assert left.norm() < 0.8 * plain.norm()
    train(bundle)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    assert relative(logits(bundle.model), taught) < 1e-5


def test_one_round_of_loftq_is_the_best_change_of_its_rank(bundle: Bundle, apply: Apply) -> None:
    """Eckart & Young: no matrix of rank r is nearer than the first r singular values leave."""
    weight = bundle.model.get_submodule(QUERY).weight.detach().clone()
    apply(Lora(r=8, init="loftq", loftq_rounds=1), bundle)
    layer: Any = bundle.model.get_submodule(QUERY)
    left = weight - layer.get_base_layer().weight - layer.get_delta_weight("default")
    values = torch.linalg.svdvals(weight - nf4(weight))
    torch.testing.assert_close(left.norm(), values[8:].norm())


def test_four_bits_are_those_of_bitsandbytes() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.randn(32 * 64, generator=torch.Generator().manual_seed(0))
    packed = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    wide = bitsandbytes.functional.dequantize_4bit(*packed)
    torch.testing.assert_close(nf4(weight), wide.flatten())
