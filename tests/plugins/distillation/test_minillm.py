"""MiniLLM's gradient, against the reverse KL of all answers that can be written."""
# V vocabulary

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from ontogeny.adapter import Bundle
from ontogeny.generation import Decoding, write
from ontogeny.logit_loss import logit_loss
from ontogeny.output_layer import label_states
from ontogeny.testing.bigram import bigram_model
from ontogeny_plugins.distillation.minillm import Rollout, Surrogate, TeacherMix, gains_of

V, LENGTH = 4, 3


def tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(2, V, V, generator=generator, dtype=torch.float64)
    return made[0], made[1]


def log_probs(logits_VV: Tensor, answer: tuple[int, ...]) -> Tensor:
    log_probs_VV = logits_VV.log_softmax(-1)
    return torch.stack([log_probs_VV[a, b] for a, b in zip((0, *answer), answer, strict=False)])


class Rows:
    """A teacher whose logits depend on the last token alone."""

    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV = logits_NV

    def __call__(self, rows: slice) -> Tensor:
        return self.logits_NV[rows]


@pytest.mark.parametrize("single_step", [True, False])
def test_its_expected_gradient_is_that_of_the_reverse_kl_of_answers(single_step: bool) -> None:
    student, teacher = tables()
    exact = student.clone().requires_grad_()
    answers = list(product(range(V), repeat=LENGTH))
    reverse = torch.zeros((), dtype=torch.float64)
    for answer in answers:
        log_q, log_p = log_probs(exact, answer).sum(), log_probs(teacher, answer).sum()
        reverse = reverse + log_q.exp() * (log_q - log_p)
    reverse.backward()
    expected, summed = cast("Tensor", exact.grad), torch.zeros_like(student)
    for answer in answers:
        before = torch.tensor((0, *answer[:-1]))
        old, taught = log_probs(student, answer), log_probs(teacher, answer)
        gains = gains_of((taught - old).numpy(), single_step=single_step, length_norm=False)
        ones = torch.ones(LENGTH, dtype=torch.float64)
        rollout = Rollout(old, torch.from_numpy(gains.copy()), ones, ones)
        loss = Surrogate(
            cast("Any", Rows(teacher[before])),
            torch.tensor(answer),
            rollout,
            single_step=single_step,
            clip=0.2,
            cross_entropy=0.1,
        )
        turned = student[before].clone()
        loss(turned, slice(0, LENGTH), gradient=True)
        summed.index_add_(0, before, turned * float(old.sum().exp()))
    assert torch.allclose(summed, expected, atol=1e-12)


def test_the_surrogate_is_clipped_and_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = tables()
    labels = torch.tensor([1, 2, 3, 0])
    old = student.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    old = old + torch.tensor([0.5, -0.5, 0.05, 0.0], dtype=torch.float64)
    gain = torch.tensor([1.5, 2.0, -1.0, 0.0], dtype=torch.float64)
    written = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    rollout = Rollout(old, gain, torch.full((4,), 0.9, dtype=torch.float64), written)

    def total(logits: Tensor) -> tuple[float, Tensor]:
        loss = Surrogate(
            cast("Any", Rows(teacher)),
            labels,
            rollout,
            single_step=True,
            clip=0.2,
            cross_entropy=0.3,
        )
        turned = logits.clone()
        return float(loss(turned, slice(0, 4), gradient=True)[:, 0].sum()), turned

    gradient = total(student)[1]
    step = 1e-6
    for row, column in product(range(4), range(V)):
        moved = torch.zeros_like(student)
        moved[row, column] = step
        numeric = (total(student + moved)[0] - total(student - moved)[0]) / (2 * step)
        assert float(gradient[row, column]) == pytest.approx(numeric, abs=1e-8)


def test_gains_are_what_is_yet_to_come() -> None:
    rewards = np.array([1.0, 2.0, 4.0])
    assert gains_of(rewards, single_step=False, length_norm=False).tolist() == [7, 6, 4]
    assert gains_of(rewards, single_step=True, length_norm=False).tolist() == [6, 4, 0]
    assert gains_of(rewards, single_step=True, length_norm=True).tolist() == [3, 4, 0]


class Words:
    """As much of a tokenizer as writing needs."""

    eos_token_id = pad_token_id = bos_token_id = None
    all_special_ids: tuple[int, ...] = ()
    chat_template = None

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def test_what_is_drawn_with_the_teacher_is_drawn_from_the_mixture() -> None:
    student, teacher = (bigram_model(3 * table.float()) for table in tables())
    student.generation_config.eos_token_id = student.config.eos_token_id = None
    mixing = TeacherMix(cast("Any", teacher), 0.4, 1.0)
    decoding = Decoding(max_tokens=2, batch_size=2000, temperature=1.0, seed=1, processors=[mixing])
    bundle = Bundle(student, cast("Any", Words()), cast("Any", None))
    found = write(bundle, [[1, 0]] * 2000, decoding)
    tables_VV = [3 * table.float() for table in tables()]
    q, p = (table[0].softmax(-1) for table in tables_VV)
    mixture = 0.6 * q + 0.4 * p
    counts = np.bincount([answer.tokens[0] for answer in found], minlength=V) / 2000
    assert counts == pytest.approx(mixture.numpy(), abs=0.04)
    for answer in found[:50]:
        first, second = answer.tokens
        then = sum(
            share * table[first].softmax(-1)
            for share, table in zip((0.6, 0.4), tables_VV, strict=True)
        )
        expected = [float(mixture[first].log()), float(cast("Tensor", then)[second].log())]
        assert answer.log_probs == pytest.approx(expected, abs=1e-3)


def test_the_surrogate_goes_through_a_model() -> None:
    student = bigram_model(tables()[0].float())
    ids = torch.tensor([[0, 1, 2]])
    labels = torch.tensor([[1, 2, 3]])
    hidden, flat, layer = label_states(student, {"input_ids": ids}, labels)
    ones = torch.ones(3)
    old = torch.zeros(3)
    rollout = Rollout(old, ones, ones, ones)
    rows = Surrogate(
        cast("Any", Rows(tables()[1][ids[0]].float())),
        flat,
        rollout,
        single_step=True,
        clip=0.2,
        cross_entropy=0.0,
    )
    total = logit_loss(hidden, layer, rows, chunk_rows=2)[0]
    total.backward()
    assert student.lm_head.weight.grad is not None
