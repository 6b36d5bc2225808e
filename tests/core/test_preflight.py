"""Proofs hold for what is right, and fail for what is wrong: each is shown a broken model."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from ontogeny import compose
from ontogeny.adapter import Adapter, Bundle
from ontogeny.data.collation import pad_row
from ontogeny.data.packing import pack
from ontogeny.objective import Batch, Example, Loss, Objective
from ontogeny.plugins import registry
from ontogeny.preflight import (
    PreflightError,
    Proof,
    both_sides_proof,
    future_proof,
    prove,
    require,
)
from ontogeny.testing import byte_tokenizer

ISOLATED = "packed documents are isolated"
CAUSAL = "no token sees the future"
CHUNKED = "the chunked loss equals the model's logits"
PADDED = "padding changes no loss"
PADDED_LOGITS = "padding changes no logit"
ACCUMULATED = "accumulation changes no gradient"
IN_RANGE = "tokenizer ids < embedding rows"
LABELLED = "every row has a label"
TEXTS = ["The quick brown fox jumps over it.", "A lazy dog: ünd that is all of it, really!"]

ENCODER: dict[str, Any] = {
    "vocab_size": len(byte_tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 1,
}


def llama(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": len(byte_tokenizer()),
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))  # type: ignore[arg-type]


@cache
def options() -> object:
    return compose([]).stages["pretraining"].objective


def clm() -> Objective:
    built = registry().build(options())
    assert isinstance(built, Objective)
    return built


def examples(objective: Objective) -> list[Example]:
    return list(objective.prepare([{"text": text} for text in TEXTS], byte_tokenizer()))


def proofs_of(
    model: PreTrainedModel, objective: Objective | None = None, rows: list[Example] | None = None
) -> dict[str, Proof]:
    objective = objective or clm()
    bundle = Bundle(model, byte_tokenizer(), None)  # type: ignore[arg-type]
    chosen = examples(objective) if rows is None else rows
    return {proof.name: proof for proof in prove(bundle, objective, chosen, [])}


def failing(proofs: dict[str, Proof]) -> set[str]:
    return {name for name, proof in proofs.items() if proof.holds is False}


def wrapped(model: PreTrainedModel, change: Callable[..., Any]) -> PreTrainedModel:
    """Let `change(forward, inputs)` stand between the model and whoever calls it."""
    forward = model.forward
    model.forward = lambda **inputs: change(forward, inputs)
    return model


def test_everything_holds_for_a_model_as_it_should_be() -> None:
    proofs = proofs_of(llama())
    assert proofs.keys() == {ISOLATED, CAUSAL, CHUNKED, PADDED, ACCUMULATED, IN_RANGE, LABELLED}
    assert failing(proofs) == set()


def test_a_model_that_ignores_its_mask_leaks() -> None:
    def ignore(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        kept = {name: value for name, value in inputs.items() if name == "input_ids"}
        return forward(**kept)

    assert failing(proofs_of(wrapped(llama(), ignore))) == {ISOLATED}


def test_a_model_that_keeps_counting_positions_through_a_row_is_not_isolated() -> None:
    def count(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        if "position_ids" in inputs:
            positions = torch.arange(inputs["input_ids"].shape[1])
            inputs = {**inputs, "position_ids": positions[None]}
        return forward(**inputs)

    size = len(byte_tokenizer())
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2))
    assert failing(proofs_of(wrapped(model, count))) == {ISOLATED}


def test_an_encoder_sees_the_future() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        is_decoder=False,
    )
    proof = proofs_of(BertLMHeadModel(config))[CAUSAL]
    assert proof.holds is False
    assert proof.evidence == "the attention layers of this model are not causal"


def test_a_model_that_says_it_is_causal_and_is_not_is_found_out() -> None:
    def look_ahead(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        outputs = forward(**inputs)
        ids = inputs["input_ids"].float()
        outputs.logits = outputs.logits + 1e-3 * ids.sum(1, keepdim=True)[..., None]
        return outputs

    model = wrapped(llama(), look_ahead)
    batch = clm().collate(examples(clm())[:1])
    assert future_proof(model, batch, causal=True).holds is False


def test_the_future_is_looked_for_within_a_document_and_not_in_padding() -> None:
    class Leaky(nn.Module):
        """Adds the sum over all tokens of the same document, also those to come."""

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            total = input_ids.float().sum(1)[:, None, None]
            return type("Output", (), {"logits": total.expand(*input_ids.shape, 9)})

    ids = torch.tensor([[1, 2, 3, 0, 0, 0]])
    batch = {
        "input_ids": ids,
        "labels": ids,
        "document_ids": torch.tensor([[0, 0, 0, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]),
    }
    assert future_proof(Leaky(), batch, causal=True).holds is False
    padded = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0]])}
    assert future_proof(Leaky(), padded, causal=True).holds is False


def test_a_document_of_one_token_has_no_future() -> None:
    batch = {"input_ids": torch.tensor([[3]]), "labels": torch.tensor([[4]])}
    assert future_proof(llama(), batch, causal=True).holds is None


def test_logits_that_the_chunked_loss_does_not_know_of_are_found() -> None:
    def only_real_ones(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        outputs = forward(**inputs)
        if outputs.logits.numel():
            outputs.logits = outputs.logits * 2
        return outputs

    assert CHUNKED in failing(proofs_of(wrapped(llama(), only_real_ones)))


def test_a_tokenizer_larger_than_the_embeddings_is_found() -> None:
    model = llama(vocab_size=len(byte_tokenizer()))
    proof = proofs_of(model)[IN_RANGE]
    assert proof.holds
    short = llama(vocab_size=len(byte_tokenizer()) - 1)
    assert proofs_of(short)[IN_RANGE].holds is False


def changed(change: Callable[[Loss], Loss]) -> Objective:
    """Return the objective `clm` with another loss."""
    objective = clm()
    loss = objective.loss
    objective.loss = lambda model, batch: change(loss(model, batch))  # type: ignore[method-assign]
    return objective


def test_a_loss_that_averages_is_found() -> None:
    averaging = changed(lambda loss: Loss(loss.total / loss.weight, torch.ones(())))
    assert failing(proofs_of(llama(), averaging)) == {PADDED, ACCUMULATED}


def test_a_loss_that_averages_rows_of_equal_length_is_found_too() -> None:
    averaging = changed(lambda loss: Loss(loss.total / loss.weight, torch.ones(())))
    rows = [{name: column[:20] for name, column in row.items()} for row in examples(clm())]
    assert ACCUMULATED in failing(proofs_of(llama(), averaging, rows))


def test_a_loss_that_counts_rows_instead_of_tokens_is_found() -> None:
    class Rows(Objective):
        def prepare(self, rows: object, tokenizer: object) -> list[Example]:
            raise NotImplementedError

        def collate(self, examples: Any) -> Batch:
            return clm().collate(examples)

        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            loss = clm().loss(model, batch)
            return Loss(loss.total * len(batch["labels"]), loss.weight)

    found = failing(proofs_of(llama(), Rows(), examples(clm())))
    assert found == {PADDED, ACCUMULATED}


def test_a_loss_that_looks_at_padding_is_found() -> None:
    objective = clm()

    def loss(model: nn.Module, batch: Batch) -> Loss:
        logits = model(input_ids=batch["input_ids"]).logits
        return Loss((logits**2).sum(), torch.tensor(float(logits.numel())))

    objective.loss = loss  # type: ignore[method-assign]
    assert PADDED in failing(proofs_of(llama(), objective))


def test_a_row_that_is_masked_to_nothing_is_found() -> None:
    rows = examples(clm())
    rows[1]["labels"] = rows[1]["labels"] * 0 - 100
    proof = proofs_of(llama(), rows=rows)[LABELLED]
    assert proof.holds is False
    assert proof.evidence.startswith("0 to ")


def test_an_adapter_can_prove_its_own() -> None:
    class Broken(Adapter):
        def apply(self, bundle: Bundle) -> Bundle:
            return bundle

        def settle(self, bundle: Bundle) -> Bundle:
            return bundle

        def proofs(self, bundle: Bundle, batch: Batch) -> list[Proof]:
            del bundle
            return [Proof("the adapter is the identity", not batch, "it is not")]

    objective = clm()
    bundle = Bundle(llama(), byte_tokenizer(), None)  # type: ignore[arg-type]
    proofs = prove(bundle, objective, examples(objective), [Broken()])
    with pytest.raises(PreflightError, match="the adapter is the identity does not hold: it is no"):
        require(proofs)


def test_the_first_proof_that_fails_stops_the_run_and_says_how_to_go_on() -> None:
    proofs = [Proof("a", True, ""), Proof("b", None, ""), Proof("c", False, "2 > 1")]
    with pytest.raises(PreflightError) as caught:
        require(proofs)
    assert str(caught.value) == "preflight: c does not hold: 2 > 1; preflight=off skips this"
    assert caught.value.exit_code == 2
    require(proofs[:2])


def test_proving_leaves_the_model_as_it_was() -> None:
    model = llama().train()
    before = [parameter.clone() for parameter in model.parameters()]
    proofs_of(model)
    assert model.training
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None


# ------------------------------------------------------------------- losses with random numbers


def mlm() -> Objective:
    stage = compose(["objective=mlm"]).stages["pretraining"]
    built = registry().build(stage.objective)
    assert isinstance(built, Objective)
    return built


def encoder(config: PreTrainedConfig | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(config or BertConfig(**ENCODER))
    return model


def packed_rows() -> list[Example]:
    rows = examples(mlm())
    return [pad_row(pack(rows), 100), pad_row(pack(rows[::-1]), 100)]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("config", [BertConfig, RobertaConfig])
def test_all_that_applies_holds_for_a_loss_that_draws_masks(
    config: type[PreTrainedConfig], packs: bool
) -> None:
    rows = packed_rows() if packs else examples(mlm())
    proofs = proofs_of(encoder(config(**ENCODER)), mlm(), rows)
    assert failing(proofs) == set()
    assert {name for name, proof in proofs.items() if proof.holds is None} == {
        LABELLED,
        ACCUMULATED,
    }
    assert proofs[ACCUMULATED].evidence == "the loss draws random numbers, others in every batch"
    assert proofs[PADDED_LOGITS].holds
    assert proofs[ISOLATED].holds


@pytest.mark.parametrize("draw", [torch.rand, np.random.random, random.random])
@pytest.mark.parametrize("packs", [True, False])
def test_losses_are_not_compared_where_they_draw_random_numbers_of_any_kind(
    draw: Callable[..., Any], packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(loss: Loss) -> Loss:
        return Loss(
            loss.total * (1 + float(draw(()) if draw is torch.rand else draw())), loss.weight
        )

    objective = changed(noisy)
    monkeypatch.setattr(type(objective), "packs", packs)
    proofs = proofs_of(llama(), objective)
    assert failing(proofs) == set()
    assert proofs[ACCUMULATED].holds is None
    assert proofs[PADDED_LOGITS].holds if packs else proofs[PADDED].holds is None


def test_an_encoder_that_ignores_its_mask_leaks_between_documents_and_into_padding() -> None:
    def ignore(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        return forward(input_ids=inputs["input_ids"])

    for rows in (packed_rows(), examples(mlm())):
        found = failing(proofs_of(wrapped(encoder(), ignore), mlm(), rows))
        assert found == {ISOLATED, PADDED_LOGITS}


def test_positions_of_packed_documents_that_begin_elsewhere_are_found() -> None:
    def shift(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        if "position_ids" in inputs:
            inputs = {**inputs, "position_ids": inputs["position_ids"] - 1}
        return forward(**inputs)

    model = wrapped(encoder(RobertaConfig(**ENCODER)), shift)
    proof = proofs_of(model, mlm(), packed_rows())[ISOLATED]
    assert proof.holds is False
    assert proof.evidence.endswith("; data.packing=false packs none")


def test_a_model_that_takes_no_mask_for_pairs_of_tokens_cannot_pack() -> None:
    def refuse(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        if inputs.get("attention_mask") is not None and inputs["attention_mask"].dim() > 2:
            raise RuntimeError("sizes\nmust match")
        return forward(**inputs)

    model = wrapped(encoder(), refuse)
    proof = proofs_of(model, mlm(), examples(mlm()))[ISOLATED]
    assert proof.holds is None
    assert proof.evidence == "this model cannot pack, and data.packing is false"
    words = r"takes no mask that keeps documents of a row apart \(RuntimeError: sizes must match\)"
    with pytest.raises(PreflightError, match=rf"{words}; set data.packing=false"):
        proofs_of(model, mlm(), packed_rows())


def test_an_exact_loss_is_compared_exactly() -> None:
    proofs = proofs_of(llama())
    assert PADDED_LOGITS not in proofs
    assert proofs[ACCUMULATED].holds
    assert proofs[PADDED].holds


def test_an_encoder_sees_both_sides_and_a_decoder_one() -> None:
    batch = clm().collate(examples(clm())[:1])
    assert both_sides_proof(encoder().eval(), batch, causal=False).holds
    assert both_sides_proof(llama().eval(), batch, causal=False).holds is False
    assert both_sides_proof(llama().eval(), batch, causal=True).holds is False
    one = {"input_ids": torch.tensor([[3]])}
    assert both_sides_proof(encoder(), one, causal=False).holds is None
