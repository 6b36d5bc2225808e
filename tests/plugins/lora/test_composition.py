"""LoRA after other adapters: what they have frozen stays, what they have added is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.models import load_pretrained
from ontogeny.options import Model
from ontogeny_plugins.freeze import BlockExpansion, Freeze, Full
from ontogeny_plugins.lora import Lora, Peft
from ontogeny_plugins.lora.injection import injection_of

Apply = Callable[..., Adapter]
Train = Callable[..., list[float]]
Logits = Callable[[PreTrainedModel], Tensor]


def adapted(bundle: Bundle) -> set[str]:
    return {*injection_of(bundle.model).tuner.targeted_module_names}


@pytest.mark.parametrize("first", ["freeze", "lora"])
def test_frozen_blocks_are_after_the_merge_what_they_were(
    first: str, bundle: Bundle, apply: Apply, train: Train
) -> None:
    options: list[object] = [Freeze(first_blocks=1), Lora(r=4)]
    before = {name: each.clone() for name, each in bundle.model.state_dict().items()}
    adapters = [apply(each, bundle) for each in (options if first == "freeze" else options[::-1])]
    train(bundle)
    for adapter in reversed(adapters):
        adapter.settle(bundle)
    after = bundle.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("model.layers.1.") for name in moved)
    assert all(each.requires_grad for each in bundle.model.parameters())


def test_layers_that_are_named_are_adapted_where_they_are_free(
    bundle: Bundle, apply: Apply
) -> None:
    apply(Freeze(first_blocks=1), bundle)
    apply(Lora(r=4, target_modules=["q_proj"]), bundle)
    assert adapted(bundle) == {"model.layers.1.self_attn.q_proj"}


def test_a_frozen_bias_is_no_frozen_layer(bundle_of: Callable[[str], Bundle], apply: Apply) -> None:
    bundle = bundle_of("gpt2")
    apply(Freeze(names=[".*bias"]), bundle)
    apply(Lora(r=4), bundle)
    assert len(adapted(bundle)) == 2 * 4


def test_nothing_but_frozen_layers_is_one_line(bundle: Bundle, apply: Apply) -> None:
    apply(Freeze(train_only=["lm_head"]), bundle)
    words = (
        r"adapter.lora: another adapter has frozen every layer of \['all-linear'\], such as model"
    )
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4), bundle)


def test_pefts_own_choice_does_not_thaw_what_is_frozen(bundle: Bundle, apply: Apply) -> None:
    apply(Freeze(first_blocks=1), bundle)
    words = "adapter.ia3 would change model.layers.0.*which another adapter has frozen: name the la"
    with pytest.raises(ConfigError, match=words):
        apply(Peft(method="ia3", target_modules=[]), bundle)


def test_a_second_adapter_takes_the_layers_of_the_first(bundle: Bundle, apply: Apply) -> None:
    """It was the first that froze them."""
    apply(Freeze(first_blocks=1), bundle)
    apply(Lora(r=4), bundle)
    apply(Lora(r=2), bundle)
    assert len(adapted(bundle)) == 7


def test_what_another_adapter_has_added_is_trained_and_switching_off_is_refused(
    bundle: Bundle, apply: Apply
) -> None:
    norm = bundle.model.get_submodule("model.norm")
    norm.register_parameter("shift", nn.Parameter(torch.zeros(32)))
    adapter = apply(Lora(r=4), bundle)
    own = dict(bundle.model.named_parameters())
    assert own["model.norm.shift"].requires_grad
    assert not own["model.norm.weight"].requires_grad
    with pytest.raises(ConfigError, match=r"such as model\.norm\.shift"), adapter.off(bundle):
        pass


def test_two_variants_on_the_same_layers_prove_their_merge_together(
    bundle: Bundle, apply: Apply, train: Train, logits: Logits, ids_BT: Tensor
) -> None:
    adapters = [apply(Lora(r=4), bundle), apply(Lora(r=4, init="pissa"), bundle)]
    proofs = [proof for each in adapters for proof in each.proofs(bundle, {"input_ids": ids_BT})]
    assert all(proof.holds for proof in proofs if "merges to what it computes" in proof.name)
    train(bundle)
    taught = logits(bundle.model)
    for adapter in reversed(adapters):
        adapter.settle(bundle)
    assert float((logits(bundle.model) - taught).abs().max() / taught.abs().max()) < 1e-5


def test_a_deeper_model_than_its_base_is_not_kept_beside_it(
    bundle: Bundle, apply: Apply, tmp_path: Path
) -> None:
    base = save_checkpoint(bundle, tmp_path / "base", {})
    bundle.model = load_pretrained(AutoModelForCausalLM, Model(source=str(base)), {})
    apply(BlockExpansion(every=2), bundle)
    with pytest.raises(ConfigError, match="has given the model another shape than its base has"):
        apply(Lora(r=4, merge=False), bundle)


def test_new_blocks_cannot_be_copies_of_adapted_ones(bundle: Bundle, apply: Apply) -> None:
    apply(Lora(r=4), bundle)
    words = "cannot copy blocks that another adapter has changed: name block_expansion before it"
    with pytest.raises(ConfigError, match=words):
        apply(BlockExpansion(every=2), bundle)


def test_lora_in_new_blocks_trains_them(bundle: Bundle, apply: Apply, ids_BT: Tensor) -> None:
    expansion = apply(BlockExpansion(every=2), bundle)
    apply(Lora(r=4), bundle)
    assert all(name.startswith("model.layers.2.") for name in adapted(bundle))
    (proof,) = expansion.proofs(bundle, {"input_ids": ids_BT})
    assert proof.holds


@pytest.mark.parametrize(
    ("options", "thaw"),
    [(Full(), False), (BlockExpansion(every=2), False), (Freeze(first_blocks=1), True)],
    ids=str,
)
def test_a_proof_fails_where_another_adapter_undoes_what_it_says(
    options: object, thaw: bool, bundle: Bundle, apply: Apply, ids_BT: Tensor
) -> None:
    adapter = apply(options, bundle)
    (before,) = adapter.proofs(bundle, {"input_ids": ids_BT})
    bundle.model.requires_grad_(thaw)
    (after,) = adapter.proofs(bundle, {"input_ids": ids_BT})
    assert (before.holds, after.holds) == (True, False)


def test_all_linear_layers_of_a_mamba_are_those_that_its_kernels_do_not_pass_by(
    bundle: Bundle, apply: Apply, train: Train, logits: Logits
) -> None:
    sizes = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    bundle.model = MambaForCausalLM(MambaConfig(vocab_size=259, **sizes))
    adapter = apply(Lora(r=2), bundle)
    assert {name.rpartition(".")[2] for name in adapted(bundle)} == {"in_proj"}
    train(bundle)
    trained = [each for name, each in bundle.model.named_parameters() if ".lora_B." in name]
    assert all(each.abs().max() > 0 for each in trained)
    taught = logits(bundle.model)
    adapter.settle(bundle)
    torch.testing.assert_close(logits(bundle.model), taught, atol=1e-5, rtol=1e-4)


def test_a_family_that_peft_has_no_choice_for_is_one_line_with_the_layers(
    bundle: Bundle, apply: Apply
) -> None:
    vars(bundle.model.config)["model_type"] = "modernbert"
    words = (
        r"adapter.ia3.target_modules is \[\], PEFT's own choice, and PEFT has none for modernbert "
        r"models: name layers of LlamaForCausalLM, such as down_proj, gate_proj"
    )
    with pytest.raises(ConfigError, match=words):
        apply(Peft(method="ia3", target_modules=[]), bundle)
