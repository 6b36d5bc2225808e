"""Losses of whole rows of logits, by chunks: the same as with all logits, for every model."""
# N positions, V vocabulary, D width

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from ontogeny.logit_loss import ChunkedLogits, logit_loss
from ontogeny.output_layer import label_states

if TYPE_CHECKING:
    from torch import nn

SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "gemma2": lambda: Gemma2ForCausalLM(  # soft caps: no linear layer
        Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0)
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),  # with a bias
}


class Square:
    """Σ logits² of each row, and their number: a loss with an obvious gradient."""

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        wide_CV = logits_CV.float()
        terms_CM = torch.stack([wide_CV.square().sum(-1), torch.ones(len(wide_CV))], -1)
        if gradient:
            logits_CV.copy_(2 * wide_CV)
        return terms_CM


def made(name: str) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    ids = torch.randint(37, (2, 9))
    labels = torch.where(torch.rand(2, 9) < 0.3, -100, ids)
    return model, {"input_ids": ids}, labels


@pytest.mark.parametrize("chunk_rows", [1, 4, 100, None])
@pytest.mark.parametrize("name", MODELS)
def test_sums_and_gradients_are_those_of_all_logits(name: str, chunk_rows: int | None) -> None:
    model, inputs, labels = made(name)
    kept = labels != -100
    expected = model(**inputs).logits[kept].square().sum()
    expected.backward()
    gradients = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    model.zero_grad()
    hidden, _, layer = label_states(model, inputs, labels)
    sums = logit_loss(hidden, layer, Square(), chunk_rows=chunk_rows)
    sums[0].backward()
    assert sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums[1].item() == int(kept.sum())
    found = [each.grad for each in model.parameters() if each.grad is not None]
    for one, other in zip(found, gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_may_be_shown_a_part_of_the_vocabulary(name: str) -> None:
    model, inputs, labels = made(name)
    expected = model(**inputs).logits[labels != -100][:, :30].square().sum()
    expected.backward()
    table = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    hidden, _, layer = label_states(model, inputs, labels)
    sums = logit_loss(hidden, layer, Square(), vocabulary=30, chunk_rows=4)
    sums[0].backward()
    assert sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(model.get_input_embeddings().weight.grad, table, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_any_rows_are_the_models_own(name: str) -> None:
    model, inputs, labels = made(name)
    hidden, _, layer = label_states(model, inputs, labels)
    logits = ChunkedLogits(hidden, layer, 30)
    with torch.no_grad():
        expected = model(**inputs).logits[labels != -100][:, :30]
    for rows in (slice(0, 5), slice(5, 7), slice(1, 9)):
        assert torch.allclose(logits(rows), expected[rows], atol=1e-5)


def test_going_backward_twice_is_an_error() -> None:
    model, inputs, labels = made("llama")
    hidden, _, layer = label_states(model, inputs, labels)
    sums = logit_loss(hidden, layer, Square())
    sums[0].backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward twice"):
        sums[0].backward()


def test_no_position_is_no_loss() -> None:
    model, inputs, labels = made("llama")
    hidden, _, layer = label_states(model, inputs, torch.full_like(labels, -100))
    sums = logit_loss(hidden, layer, Square())
    sums[0].backward()
    assert sums.tolist() == [0.0, 0.0]
