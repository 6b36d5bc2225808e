"""Adapters on a base in few bits (QLoRA): frozen, trained beside, merged in full precision."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from ontogeny import ConfigError, compose, run
from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.models import architecture, load_pretrained
from ontogeny.options import Model
from ontogeny.quantization import PACKAGES, is_quantised
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.resume import check_resume
from ontogeny.testing.trial import trial
from ontogeny_plugins.lora import Lora

Logits = Callable[[PreTrainedModel], Tensor]
Apply = Callable[..., Adapter]
Train = Callable[..., list[float]]

INSTALLED = [name for name, package in PACKAGES.items() if find_spec(package)]
ALL = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in INSTALLED, reason=f"the package {PACKAGES[name]} is not installed"
        ),
    )
    for name in PACKAGES
]
# What the packages themselves say on a CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def base(tmp_path: Path, bundle: Bundle) -> Path:
    """Return the checkpoint of a Llama whose layers are whole blocks of 64 weights."""
    config = bundle.model.config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    seed_everything("weights")
    wide = Bundle(LlamaForCausalLM(config), bundle.tokenizer, bundle.head)
    return save_checkpoint(wide, tmp_path / "base", {})


@pytest.fixture
def quantised(base: Path, bundle: Bundle) -> Callable[[str], Bundle]:
    """Return a function that opens the checkpoint `base` in few bits."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    def load(name: str) -> Bundle:
        model = load_pretrained(
            AutoModelForCausalLM, Model(source=str(base), quantization=name), {}
        )
        return Bundle(model, bundle.tokenizer, bundle.head)

    return load


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("name", ALL)
def test_it_starts_as_the_quantised_base_and_is_merged_in_full_precision(
    name: str,
    quantised: Callable[[str], Bundle],
    apply: Apply,
    train: Train,
    logits: Logits,
    tmp_path: Path,
) -> None:
    bundle = quantised(name)
    assert is_quantised(bundle.model)
    before = logits(bundle.model)
    adapter = apply(Lora(r=4), bundle)
    assert torch.equal(logits(bundle.model), before)
    train(bundle, steps=3, lr=0.3)
    taught = logits(bundle.model)
    assert relative(taught, before) > 0.05
    with adapter.off(bundle):
        assert torch.equal(logits(bundle.model), before)
    settled = adapter.settle(bundle)
    assert not is_quantised(settled.model)
    assert {each.dtype for each in settled.model.parameters()} == {torch.float32}
    # int8 rounds what goes into a layer, too; the others differ by the order of their sums.
    assert relative(logits(settled.model), taught) < (0.02 if name == "int8" else 1e-3)
    folder = save_checkpoint(settled, tmp_path / "merged", {})
    again = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(again), logits(settled.model))


@pytest.mark.parametrize("name", ALL)
def test_an_evaluation_leaves_the_gradients_of_training_alone(
    name: str,
    quantised: Callable[[str], Bundle],
    apply: Apply,
    logits: Logits,
    ids_BT: Tensor,
) -> None:
    """bitsandbytes packs weights on a CPU when they are first used in eval mode."""
    bundle = quantised(name)
    apply(Lora(r=4), bundle)
    gradients = []
    for _ in range(2):
        bundle.model.zero_grad(set_to_none=True)
        bundle.model.train()(ids_BT).logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in bundle.model.parameters() if p.requires_grad])
        logits(bundle.model)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert sum(bool(each.abs().max() > 0) for each in gradients[0]) == 14  # B of every layer


@pytest.mark.parametrize("name", ALL)
def test_weights_are_rounded_to_few_bits_again_only_if_asked(
    name: str,
    quantised: Callable[[str], Bundle],
    apply: Apply,
    train: Train,
    logits: Logits,
    tmp_path: Path,
) -> None:
    bundle = quantised(name)
    adapter = apply(Lora(r=4, requantise=True), bundle)
    train(bundle, steps=3, lr=0.3)
    settled = adapter.settle(bundle)
    assert is_quantised(settled.model)
    folder = save_checkpoint(settled, tmp_path / "merged", {})
    again = load_pretrained(AutoModelForCausalLM, Model(source=str(folder)), {})
    assert is_quantised(again)
    assert not any(each.requires_grad for each in again.parameters())
    assert relative(logits(again), logits(settled.model)) < 1e-3


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_of_a_quantised_base_can_be_kept_beside_it(
    name: str,
    quantised: Callable[[str], Bundle],
    apply: Apply,
    train: Train,
    logits: Logits,
    tmp_path: Path,
) -> None:
    bundle = quantised(name)
    adapter = apply(Lora(r=4, merge=False), bundle)
    train(bundle, steps=3, lr=0.3)
    taught = logits(bundle.model)
    folder = save_checkpoint(adapter.settle(bundle), tmp_path / "adapter", {})
    other = quantised(name).model
    other.load_adapter(folder)
    assert relative(logits(other), taught) < 1e-3
    wide = load_pretrained(AutoModelForCausalLM, Model(source=str(folder)), {})
    assert relative(logits(wide), taught) < 0.5  # the base is not rounded here
    assert not is_quantised(wide)


@pytest.mark.parametrize("name", ALL)
def test_a_state_of_training_leaves_the_base_out_and_fits_back(
    name: str, quantised: Callable[[str], Bundle], apply: Apply, train: Train, logits: Logits
) -> None:
    first, second = quantised(name), quantised(name)
    for bundle in (first, second):
        apply(Lora(r=4), bundle)
    train(first)
    state = first.model.state_dict()
    assert not [key for key in state if "q_proj.base_layer" in key]
    assert all(type(each) is Tensor for each in state.values())
    second.model.load_state_dict(state)
    assert torch.equal(logits(first.model), logits(second.model))
    del state["model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*q_proj.lora_A"):
        second.model.load_state_dict(state)


@pytest.mark.parametrize("name", ALL)
def test_a_quantised_base_without_an_adapter_is_not_trained(
    name: str, base: Path, home: Path, text_file: Path
) -> None:
    overrides = [
        f"model.source={base}",
        f"model.quantization={name}",
        f"data.path={text_file}",
        "data.max_length=32",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "preflight=off",
    ]
    with pytest.raises(ConfigError, match="no parameter of the model is trainable; check the adap"):
        run(compose(overrides))


# One form of each package is quick to try; the others of bitsandbytes are the same code.
KILLED = [
    pytest.param(*each.values, marks=[*each.marks, *([pytest.mark.slow] if slow else [])])
    for each in ALL
    for slow in [each.values[0] in {"fp4", "int8"}]
]


@pytest.mark.parametrize("name", KILLED)
def test_a_run_that_was_killed_ends_in_the_same_bytes(
    name: str, base: Path, text_file: Path, tiny_overrides: list[str]
) -> None:
    small = [each for each in tiny_overrides if not each.startswith(("tokenizer.", "model."))]
    chosen = [f"model.source={base}", f"model.quantization={name}", "adapter.lora.r=4"]
    with trial("adapter", "lora", "pretraining", [*small, "adapter=[lora]", *chosen]) as made:
        check_resume(made, text_file)


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq", "corda", "lora_ga"])
@pytest.mark.skipif("nf4" not in INSTALLED, reason="the package bitsandbytes is not installed")
def test_inits_that_change_the_base_are_refused(
    init: str, quantised: Callable[[str], Bundle], apply: Apply
) -> None:
    words = f"adapter.lora.init is '{init}', which changes the weights of the base, and those are"
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4, init=init), quantised("nf4"))


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_package_that_is_missing_is_named(
    name: str, quantised: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontogeny.quantization.find_spec", lambda _: None)
    words = f"model.quantization is '{name}', which needs the package {PACKAGES[name]}: install it"
    with pytest.raises(ConfigError, match=words):
        quantised(name)


def test_random_weights_are_not_quantised() -> None:
    model = Model(config={"model_type": "llama"}, quantization="nf4")
    with pytest.raises(ConfigError, match=r"model.quantization is 'nf4', but there is no model.so"):
        architecture(model, byte_tokenizer(), {})


def test_a_kind_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"model.quantization is 'nf5'; expected one of nf4, fp4"):
        compose(["model.quantization=nf5"])
