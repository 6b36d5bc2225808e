"""The numbers of distillation's losses: closed forms, finite differences, TRL, limits."""
# N positions, V vocabulary, D width

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ontogeny_plugins.distillation import Distillation
from ontogeny_plugins.distillation.divergences import LOWEST, Divergence, divergence
from ontogeny_plugins.distillation.row_losses import FromLogits, FromTop, Weights, top_of

if TYPE_CHECKING:
    from collections.abc import Callable

N, V = 7, 23
NAMES = [
    *("forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"),
    "total_variation",
]


def logits(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(N, V, generator=generator, dtype=torch.float64)


def made(name: str, beta: float = 0.3, alpha: float = 0.1) -> Divergence:
    return divergence(Distillation(loss=name, beta=beta, skew=alpha))


def by_hand(name: str, p: Tensor, q: Tensor, beta: float = 0.3, alpha: float = 0.1) -> Tensor:
    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one * (one / other).log()).sum(-1)

    formulas: dict[str, Callable[[], Tensor]] = {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: (
            beta * kl(p, beta * p + (1 - beta) * q) + (1 - beta) * kl(q, beta * p + (1 - beta) * q)
        ),
        "skew_forward_kl": lambda: kl(p, alpha * p + (1 - alpha) * q),
        "skew_reverse_kl": lambda: kl(q, (1 - alpha) * p + alpha * q),
        "total_variation": lambda: 0.5 * (p - q).abs().sum(-1),
    }
    return formulas[name]()


class Fixed:
    """A teacher whose logits are given."""

    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV = logits_NV

    def __call__(self, rows: slice) -> Tensor:
        return self.logits_NV[rows]


def learned(
    weights: Weights, teacher: Tensor, student: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    turned = student.clone()
    loss = FromLogits(Fixed(teacher), labels, None, weights)  # type: ignore[arg-type]
    terms = loss(turned, slice(0, N), gradient=True)
    return terms, turned


@pytest.mark.parametrize("name", NAMES)
def test_a_divergence_is_what_its_paper_says(name: str) -> None:
    p, q = logits(0).softmax(-1), logits(1).softmax(-1)
    assert torch.allclose(made(name)(p.log(), q.log()), by_hand(name, p, q), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(name: str) -> None:
    weights = Weights(made(name), temperature=2.0, scale=4.0, cross_entropy=0.0)
    terms, gradient = learned(weights, logits(0), logits(0), torch.zeros(N, dtype=torch.long))
    assert float(terms[:, 0].abs().max()) < 1e-12
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name: str, temperature: float) -> None:
    weights = Weights(made(name), temperature, scale=temperature**2, cross_entropy=0.4)
    teacher, student = logits(0), logits(1)
    labels = torch.arange(N) % V
    _, gradient = learned(weights, teacher, student, labels)
    step = 1e-6
    for row, column in [(0, 0), (3, 5), (6, 6), (2, 22)]:
        moved = torch.zeros_like(student)
        moved[row, column] = step
        ahead = learned(weights, teacher, student + moved, labels)[0][:, 0].sum()
        behind = learned(weights, teacher, student - moved, labels)[0][:, 0].sum()
        numeric = float((ahead - behind) / (2 * step))
        assert float(gradient[row, column]) == pytest.approx(numeric, abs=2e-7)


@pytest.mark.parametrize(("beta", "limit"), [(1e-5, "forward_kl"), (1 - 1e-5, "reverse_kl")])
def test_the_normalised_jsd_goes_to_both_kls(beta: float, limit: str) -> None:
    p, q = logits(0, 1.0).softmax(-1), logits(1, 1.0).softmax(-1)
    found = made("jsd", beta)(p.log(), q.log()) / (beta * (1 - beta))
    assert torch.allclose(found, by_hand(limit, p, q), rtol=1e-3)


@pytest.mark.parametrize(("beta", "limit"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_at_its_ends_the_jsd_is_a_kl(beta: float, limit: str) -> None:
    assert type(made("jsd", beta)) is type(made(limit))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_loss_and_gradient_are_those_of_trl(beta: float, temperature: float) -> None:
    trainer = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    teacher, student = logits(0), logits(1).requires_grad_()
    expected = trainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    expected.backward()
    weights = Weights(made("jsd", beta), temperature, scale=1.0, cross_entropy=0.0)
    labels = torch.zeros(N, dtype=torch.long)
    terms, gradient = learned(weights, teacher, student.detach(), labels)
    assert float(terms[:, 0].sum()) == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradient, student.grad, atol=1e-10)


def test_the_mix_is_cross_entropy_and_the_divergence_times_temperature_squared() -> None:
    teacher, student, labels = logits(0), logits(1).requires_grad_(), torch.arange(N)
    soft = F.kl_div(
        (student / 2).log_softmax(-1),
        (teacher / 2).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    expected = 0.3 * F.cross_entropy(student, labels, reduction="sum") + 0.7 * 4 * soft
    expected.backward()
    weights = Weights(made("forward_kl"), 2.0, scale=0.7 * 4, cross_entropy=0.3)
    terms, gradient = learned(weights, teacher, student.detach(), labels)
    assert float(terms[:, 0].sum()) == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradient, student.grad, atol=1e-10)


def from_top(
    name: str, kept: int, temperature: float = 1.0, cross_entropy: float = 0.0
) -> tuple[Tensor, Tensor]:
    ids, log_p, rest = top_of(logits(0), temperature, kept)
    weights = Weights(made(name), temperature, scale=1.0, cross_entropy=cross_entropy)
    buckets = torch.cat([log_p, rest[:, None]], -1)
    turned = logits(1)
    loss = FromTop(ids, buckets, torch.arange(N), None, weights)
    return loss(turned, slice(0, N), gradient=True), turned


@pytest.mark.parametrize("name", NAMES)
def test_a_bucket_for_the_rest_gives_a_lower_bound(name: str) -> None:
    full = made(name)(logits(0).log_softmax(-1), logits(1).log_softmax(-1))
    bounds = [from_top(name, kept)[0][:, 0] for kept in (1, 4, 16, 22, V)]
    for coarse, fine in zip(bounds, [*bounds[1:], full], strict=True):
        assert bool((coarse <= fine + 1e-12).all())
    assert float((full - bounds[0]).min()) > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_with_all_tokens_kept_it_is_the_full_divergence(name: str, temperature: float) -> None:
    weights = Weights(made(name), temperature, scale=1.0, cross_entropy=0.5)
    terms, gradient = learned(weights, logits(0), logits(1), torch.arange(N))
    kept_terms, kept_gradient = from_top(name, V, temperature, cross_entropy=0.5)
    assert torch.allclose(kept_terms, terms, atol=1e-12)
    assert torch.allclose(kept_gradient, gradient, atol=1e-12)


@pytest.mark.parametrize("kept", [1, 5, 22])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_buckets_is_that_of_autograd(name: str, kept: int) -> None:
    student = logits(1).requires_grad_()
    ids, log_p, rest = top_of(logits(0), 1.0, kept)
    log_q = student.log_softmax(-1)
    others = torch.ones(N, V, dtype=torch.bool).scatter(-1, ids, False)
    rest_q = log_q.masked_fill(~others, -torch.inf).logsumexp(-1, keepdim=True)
    log_q_buckets = torch.cat([log_q.gather(-1, ids), rest_q], -1)
    log_p_buckets = torch.cat([log_p, rest[:, None]], -1)
    by_hand(name, log_p_buckets.exp(), log_q_buckets.exp()).sum().backward()
    assert torch.allclose(from_top(name, kept)[1], student.grad, atol=1e-10)


def test_filling_up_with_zeros_instead_is_no_bound() -> None:
    # What others do: p is 0 outside the kept tokens and is normalised anew.
    ids, log_p, _ = top_of(logits(0), 1.0, 4)
    p = log_p.exp() / log_p.exp().sum(-1, keepdim=True)
    log_q = logits(1).log_softmax(-1).gather(-1, ids)
    zero_filled = (p * (p.log() - log_q)).sum(-1)
    full = made("forward_kl")(logits(0).log_softmax(-1), logits(1).log_softmax(-1))
    assert bool((zero_filled > full).any())


def test_the_rest_is_not_lost_in_rounding() -> None:
    peaked = torch.zeros(1, V)
    peaked[0, 0] = 30.0
    _, _, rest = top_of(peaked, 1.0, 1)
    assert float(rest) == pytest.approx(math.log(V - 1) - 30.0, rel=1e-6)
    assert float(top_of(peaked, 1.0, V)[2]) == LOWEST
