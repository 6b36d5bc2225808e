"""Losses of the DPO family: closed forms, gradients, and what the papers say of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ontogeny_plugins.preference import DPO, LOSSES
from ontogeny_plugins.preference.losses import FORMULAS, Pairs, divergence, mixed

# With beta 0.5 and a label smoothing of 0.1, where policy and reference agree.
AT_START = {
    "sigmoid": math.log(2),
    "robust": math.log(2),
    "hinge": 1.0,
    "ipo": 1 / (4 * 0.5**2),
    "sigmoid_norm": math.log(2),
    "nca": 2 * math.log(2),
    "bco": 2 * math.log(2),
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "sppo_hard": 1 / (2 * 0.5**2),
    "exo": math.log(0.5) - 0.5 * math.log(0.9) - 0.5 * math.log(0.1),
    "discopop": 0.5 * math.log(2) + 0.5,
    "aot": math.log(2),
    "aot_unpaired": math.log(2),
}


def options(**values: Any) -> DPO:
    return DPO(**{"beta": 0.5, "label_smoothing": 0.1, **values})


def pairs(policy: Tensor, reference: Tensor) -> Pairs:
    """Return pairs of log-probabilities [2, P] in float64, with answers of 3 and 5 tokens."""
    ratios = policy - reference
    lengths = (torch.full_like(policy[0], 3.0), torch.full_like(policy[0], 5.0))
    return Pairs(
        ratios[0], ratios[1], (policy[0], policy[1]), (reference[0], reference[1]), lengths
    )


def random_pairs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return -10 * torch.rand(2, 4, dtype=torch.float64), -10 * torch.rand(2, 4, dtype=torch.float64)


def test_all_losses_have_a_formula() -> None:
    assert set(FORMULAS) == set(LOSSES) == {*AT_START, "sft"}


@pytest.mark.parametrize("name", AT_START)
def test_where_policy_and_reference_agree_a_loss_is_its_closed_form(name: str) -> None:
    policy, _ = random_pairs()
    losses = FORMULAS[name](pairs(policy, policy), options(loss=name))
    assert losses.tolist() == pytest.approx([AT_START[name]] * 4, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "js", "alpha"])
def test_gradients_equal_finite_differences(name: str, kind: str) -> None:
    policy, reference = random_pairs()
    policy, reference = policy / 4, reference / 4

    def loss(values: Tensor) -> Tensor:
        made = pairs(values, reference)
        chosen, rejected = (divergence(r, kind, 0.4) for r in (made.chosen, made.rejected))
        made = Pairs(chosen, rejected, made.policy, made.reference, made.tokens)
        return mixed(made, options(loss=name, divergence=kind)).sum()

    assert torch.autograd.gradcheck(loss, policy.requires_grad_(), eps=1e-6, atol=1e-6)


def test_ipo_is_summed_or_averaged_over_tokens() -> None:
    policy, reference = random_pairs()
    ratios = policy - reference
    summed = FORMULAS["ipo"](pairs(policy, reference), options(loss="ipo", ipo="summed"))
    averaged = FORMULAS["ipo"](pairs(policy, reference), options(loss="ipo"))
    assert summed.tolist() == pytest.approx(((ratios[0] - ratios[1] - 1) ** 2).tolist())
    assert averaged.tolist() == pytest.approx(((ratios[0] / 3 - ratios[1] / 5 - 1) ** 2).tolist())


def test_robust_is_unbiased_under_flipped_labels() -> None:
    policy, reference = random_pairs()
    given, flipped = pairs(policy, reference), pairs(policy.flip(0), reference.flip(0))
    noisy = options(loss="robust")
    expected = 0.9 * FORMULAS["robust"](given, noisy) + 0.1 * FORMULAS["robust"](flipped, noisy)
    clean = FORMULAS["sigmoid"](given, options(label_smoothing=0.0))
    assert expected.tolist() == pytest.approx(clean.tolist(), abs=1e-12)


def test_a_mix_is_the_weighted_sum() -> None:
    made = pairs(*random_pairs())
    mpo = options(weight=0.8, mix={"bco": 0.2, "sft": 1.0}, label_smoothing=0.0)
    parts = {name: FORMULAS[name](made, mpo) for name in ("sigmoid", "bco", "sft")}
    expected = 0.8 * parts["sigmoid"] + 0.2 * parts["bco"] + parts["sft"]
    assert mixed(made, mpo).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("kind", "derivative"),
    [
        ("reverse_kl", math.log),
        ("forward_kl", lambda u: 1 - 1 / u),
        ("js", lambda u: math.log(2 * u / (1 + u))),
        ("alpha", lambda u: (1 - u**-0.4) / 0.4),
    ],
)
def test_divergences_are_the_derivatives_of_their_f(kind: str, derivative: Any) -> None:
    ratios = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    found = divergence(ratios.log(), kind, 0.4)
    assert found.tolist() == pytest.approx([derivative(float(u)) for u in ratios])


def test_alpha_goes_from_reverse_to_forward_kl() -> None:
    ratios = torch.tensor([-1.0, 0.3], dtype=torch.float64)
    small, one = divergence(ratios, "alpha", 1e-7), divergence(ratios, "alpha", 1.0)
    assert small.tolist() == pytest.approx(ratios.tolist(), abs=1e-6)
    assert one.tolist() == pytest.approx(divergence(ratios, "forward_kl", 0).tolist())
