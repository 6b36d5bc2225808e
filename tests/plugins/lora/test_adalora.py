"""AdaLoRA: its extra loss, its ranks, and that a run that is killed goes on as if it was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor

from ontogeny import ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.seeding import seed_everything
from ontogeny.testing.resume import check_resume
from ontogeny.testing.trial import trial
from ontogeny_plugins.lora import AdaLora
from ontogeny_plugins.lora.adalora import Allocation, orthogonality

Apply = Callable[..., Adapter]
Logits = Callable[..., Tensor]


class Module:
    """What the callback reads of Lightning's module."""

    consumed = 0


def callback(adapter: Adapter, bundle: Bundle, steps: int) -> Allocation:
    (found,) = adapter.callbacks(bundle, steps)
    assert isinstance(found, Allocation)
    return found


def fit(bundle: Bundle, allocation: Allocation, ids_BT: Tensor, steps: int, first: int = 0) -> None:
    """Make the steps that Lightning would make, with the hooks in its order."""
    trained = [each for each in bundle.model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.3)
    module: Any = Module()
    for step in range(first, first + steps):
        module.consumed = step
        output = bundle.model.train()(ids_BT).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(output, ids_BT.flatten()).backward()
        allocation.on_before_optimizer_step(None, module, optimizer)
        optimizer.step()
        allocation.on_before_zero_grad(None, module, optimizer)
        optimizer.zero_grad()


def test_it_does_as_pefts_own_loop(
    bundle_of: Callable[[str], Bundle], apply: Apply, ids_BT: Tensor, logits: Logits
) -> None:
    """PEFT's model adds the orthogonal term in its forward pass, given labels."""
    bundle = bundle_of("llama")
    options = AdaLora(r=2, init_r=4, every=2, warmup_share=0.2, final_share=0.2, alpha=8.0)
    adapter = apply(options, bundle)
    fit(bundle, callback(adapter, bundle, 10), ids_BT, 10)

    other = bundle_of("llama")
    config = AdaLoraConfig(
        init_r=4,
        target_r=2,
        tinit=2,
        tfinal=2,
        deltaT=2,
        lora_alpha=8,
        total_step=10,
        target_modules="all-linear",
    )
    seed_everything("adapter")
    with pytest.warns(FutureWarning):
        handle = get_peft_model(other.model, config)
    optimizer = torch.optim.SGD([each for each in handle.parameters() if each.requires_grad], 0.3)
    for step in range(1, 11):
        outputs = handle.base_model(ids_BT, labels=ids_BT, shift_labels=ids_BT)
        outputs.loss.backward()
        optimizer.step()
        handle.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    torch.testing.assert_close(logits(bundle.model), logits(other.model), atol=1e-5, rtol=1e-4)


def test_ranks_end_at_their_mean(bundle: Bundle, apply: Apply, ids_BT: Tensor) -> None:
    adapter = apply(AdaLora(r=2, init_r=4, every=1), bundle)
    fit(bundle, callback(adapter, bundle, 10), ids_BT, 10)
    named = bundle.model.named_parameters()
    ranks = [int((each != 0).sum()) for name, each in named if ".lora_E." in name]
    assert sum(ranks) == 2 * len(ranks) == 2 * 14
    assert len(set(ranks)) > 1


def test_the_orthogonal_term_is_zero_for_orthonormal_factors() -> None:
    rows = torch.linalg.qr(torch.randn(8, 3)).Q
    assert float(orthogonality([rows, rows.T])) < 1e-6
    # ‖0 - I‖ of three ranks
    assert float(orthogonality([torch.zeros(8, 3)])) == pytest.approx(3**0.5)


def test_a_callback_goes_on_from_its_state(
    bundle_of: Callable[[str], Bundle], apply: Apply, ids_BT: Tensor
) -> None:
    options = AdaLora(r=2, init_r=4, every=1)
    whole = bundle_of("llama")
    fit(whole, callback(apply(options, whole), whole, 10), ids_BT, 10)

    first, second = bundle_of("llama"), bundle_of("llama")
    before = callback(apply(options, first), first, 10)
    fit(first, before, ids_BT, 5)
    after = callback(apply(options, second), second, 10)
    second.model.load_state_dict(first.model.state_dict())
    after.load_state_dict(before.state_dict())
    fit(second, after, ids_BT, 5, first=5)
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_that_was_killed_ends_in_the_same_bytes(
    tiny_overrides: list[str], text_file: Path
) -> None:
    options = ["r=2", "init_r=4", "every=1", "warmup_share=0", "final_share=0.25"]
    chosen = [f"adapter.adalora.{option}" for option in options]
    small = [each for each in tiny_overrides if not each.startswith("tokenizer.")]
    overrides = [*small, "adapter=[adalora]", *chosen]
    with trial("adapter", "adalora", "pretraining", overrides) as made:
        check_resume(made, text_file)


def test_a_run_too_short_to_take_ranks_away_is_one_line(bundle: Bundle, apply: Apply) -> None:
    adapter = apply(AdaLora(), bundle)
    words = "adapter.adalora takes ranks away over 1 of 2 steps; expected 2 or more: raise trainer."
    with pytest.raises(ConfigError, match=words):
        list(adapter.callbacks(bundle, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 12}, "adapter.adalora.init_r is 12; expected more than adapter.adalora.r, 12"),
        ({"every": 0}, "adapter.adalora.every is 0; expected 1 or more"),
        ({"beta1": 1.0}, "adapter.adalora.beta1 must lie between 0 and 1"),
        ({"warmup_share": 0.8}, "are 0.8 and 0.3; expected 0 or more, and together less than 1"),
        ({"warmup_share": -0.1}, "are -0.1 and 0.3; expected 0 or more"),
        ({"orthogonal_weight": -1.0}, "orthogonal_weight 0 or more"),
        ({"dropout": 1.5}, "adapter.adalora.dropout is 1.5"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaLora(**options)
