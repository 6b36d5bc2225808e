"""A lesson as a whole: the fused loss against plain logits, features, and alignments."""
# N positions, V vocabulary

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.distillation.conftest import small_llama
from torch.nn import functional as F

from ontogeny.logit_loss import compile_kernels
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.distillation import Distillation
from ontogeny_plugins.distillation.alignment import Reader, aligned_example, shared_tokens
from ontogeny_plugins.distillation.cross_tokenizer import sorted_distance
from ontogeny_plugins.distillation.features import (
    Features,
    attention_loss,
    cosine_loss,
    spread,
    states_loss,
)
from ontogeny_plugins.distillation.lesson import Lesson

SHAPES = {(259,), (272,)}  # the vocabularies of the student and of the teacher


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(3, 259, (2, 12))
    labels = torch.where(torch.rand(2, 12) < 0.3, -100, ids.roll(-1, 1))
    return {"input_ids": ids, "labels": labels}


def lesson(**options: Any) -> Lesson:
    config = Distillation(**options)
    made = Lesson(config, Features(config.layers, config.hidden, config.attention))
    made.teacher = small_llama(1, vocab_size=272)  # more rows than the student: padding
    return made


@pytest.fixture(params=[False, True], ids=["eager", "compiled"])
def kernels(request: Any) -> Any:
    compile_kernels(request.param)
    yield
    compile_kernels(False)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("loss", ["forward_kl", "jsd"])
def test_a_fused_loss_is_that_of_both_models_logits(loss: str) -> None:
    made, student, given = (
        lesson(loss=loss, cross_entropy=0.3, temperature=2.0),
        small_llama(2),
        batch(),
    )
    kept = given["labels"] != -100
    teacher = made.teacher
    assert teacher is not None
    student_NV = student(given["input_ids"]).logits[kept]
    with torch.no_grad():
        teacher_NV = teacher(given["input_ids"]).logits[kept][:, :259]
    q_NV, p_NV = (each.div(2).log_softmax(-1) for each in (student_NV, teacher_NV))
    if loss == "forward_kl":
        far = F.kl_div(q_NV, p_NV, reduction="sum", log_target=True)
    else:
        m_NV = (0.5 * (q_NV.exp() + p_NV.exp())).log()
        far = 0.5 * sum(
            (F.kl_div(m_NV, each, reduction="sum", log_target=True) for each in (p_NV, q_NV)),
            torch.zeros(()),
        )
    hard = F.cross_entropy(student_NV, given["labels"][kept], reduction="sum")
    expected = 0.3 * hard + 0.7 * 4 * far
    expected.backward()
    gradients = [each.grad.clone() for each in student.parameters()]
    student.zero_grad()
    found = made.loss(student, given, given["labels"])
    found.total.backward()
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert float(found.weight) == int(kept.sum())
    for one, other in zip(student.parameters(), gradients, strict=True):
        assert torch.allclose(one.grad, other, atol=1e-4 * float(other.abs().max()) + 1e-6)


def test_the_logits_of_all_positions_are_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made, student, given = lesson(), small_llama(2), batch()
    monkeypatch.setattr("ontogeny.logit_loss.CHUNK_BYTES", 259 * 4 * 3)
    shapes = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            made_logits = isinstance(result, torch.Tensor) and result.shape[-1:] in SHAPES
            if made_logits and result.shape[0] != 32:  # the weights, transposed
                shapes.append(result.numel() // result.shape[-1])
            return result

    with Watched():
        made.loss(student, given, given["labels"]).total.backward()
    assert shapes
    assert max(shapes) <= 4


def test_blocks_are_spread_evenly_and_the_last_follows_the_last() -> None:
    assert spread(2, 6) == {0: 2, 1: 5}
    assert spread(3, 6) == {0: 1, 1: 3, 2: 5}
    assert spread(4, 2) == {0: 0, 1: 0, 2: 1, 3: 1}


def test_feature_losses_are_their_formulas() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    kept = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    expected = F.mse_loss(one[kept], other[kept]) * 4
    assert states_loss(one, other, kept).item() == pytest.approx(expected.item(), rel=1e-5)
    target = torch.ones(4)
    expected = F.cosine_embedding_loss(one[kept], other[kept], target, reduction="sum")
    assert cosine_loss(one, other, kept).item() == pytest.approx(expected.item(), rel=1e-5)
    p, q = torch.randn(2, 3, 5, 5).softmax(-1), torch.randn(2, 3, 5, 5).softmax(-1)
    per_head = (p * (p / q).log()).sum(-1).mean(1)
    expected = per_head[kept].sum()
    assert attention_loss(q, p, kept).item() == pytest.approx(expected.item(), rel=1e-5)


def test_universal_logit_distance_is_that_of_trl_and_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    p, log_q = teacher.log_softmax(-1), logits.log_softmax(-1)
    far, slopes = sorted_distance(p, log_q)
    wide = F.pad(log_q.exp().sort(-1, descending=True).values, (0, 2))
    expected = (wide - p.exp().sort(-1, descending=True).values).abs().sum(-1)
    assert torch.allclose(far, expected)
    student = logits.clone().requires_grad_()
    pad = F.pad(student.softmax(-1).sort(-1, descending=True).values, (0, 2))
    (pad - p.exp().sort(-1, descending=True).values).abs().sum().backward()
    gradient = slopes - log_q.exp() * slopes.sum(-1, keepdim=True)
    assert torch.allclose(gradient, student.grad, atol=1e-10)


def test_readings_meet_where_both_have_read_the_same() -> None:
    tokenizer = byte_tokenizer()
    reader = Reader("tokenizer", tokenizer)
    reading = reader.read("añb")
    assert reading.read_T.tolist() == [0, 1, 2, 2, 3, 3]  # ñ is two bytes
    example = aligned_example(reading, reading)
    # The first byte of ñ has read it no more than the teacher's; the second one has.
    assert example["teacher_positions"].tolist() == [0, 1, -1, 3, 4]
    own, theirs = shared_tokens(tokenizer, tokenizer)
    assert torch.equal(own, theirs)
    assert len(own) >= 256


def test_texts_are_cut_where_tokens_begin_and_nothing_is_lost() -> None:
    reader = Reader("tokenizer", byte_tokenizer())
    text = "a long text, añ öther, " * 5
    pieces = list(reader.pieces(text, 16))
    assert "".join(pieces) == text
    lengths = [len(reader.read(piece, ends=False).ids_T) - 1 for piece in pieces]
    assert max(lengths) <= 17
    assert np.mean(lengths) > 12
