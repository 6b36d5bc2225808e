"""What new tokens cost, against models that are counted; what they save, against a hand count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.diagnosis.conftest import Diagnose, World
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ontogeny import compose, run
from ontogeny_plugins.diagnosis.measuring import Interval
from ontogeny_plugins.diagnosis.saving import Saving, cost


def saving(saved: float, dearer: float, pass_tokens: float = 1e6) -> Saving:
    return Saving("vocabulary", 100, Interval(saved, saved, saved), 0.0, 6400, dearer, pass_tokens)


def llama(tied: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_the_new_parameters_are_those_of_a_resized_model(tied: bool) -> None:
    model = llama(tied)
    before = sum(parameter.numel() for parameter in model.parameters())
    parameters, _ = cost(model, 110)
    model.resize_token_embeddings(110)
    assert sum(parameter.numel() for parameter in model.parameters()) - before == parameters


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_is_dearer_by_the_multiplications_of_the_output_layer(tied: bool) -> None:
    model = llama(tied)
    body = sum(parameter.numel() for parameter in model.model.layers.parameters())
    vectors = model.model.norm.weight.numel()
    _, dearer = cost(model, 110)
    assert dearer == pytest.approx(10 * 16 / (body + vectors + 100 * 16))


def test_rows_that_were_there_as_padding_cost_nothing() -> None:
    assert cost(llama(tied=True), 95) == (0, 0.0)
    assert cost(llama(tied=True), 103)[0] == 3 * 16


def test_what_is_saved_is_fewer_tokens_each_of_which_is_dearer() -> None:
    # 100 tokens of work 1 become 80 of work 1.1: 88.
    assert saving(0.2, 0.1).net == pytest.approx(0.12)
    assert saving(0.05, 0.1).net < 0


def test_the_saving_that_is_needed_gives_exactly_what_was_asked_for() -> None:
    needed = saving(0.2, 0.1).needed(0.1)
    assert saving(needed, 0.1).net == pytest.approx(0.1)


def test_a_pass_of_training_pays_for_itself_after_as_many_served_tokens() -> None:
    # 6 · 1e6 operations for each parameter in training, 2 · 0.12 saved on each token served.
    assert saving(0.2, 0.1).break_even == pytest.approx(6e6 / (2 * 0.12))
    assert saving(0.05, 0.1).break_even is None


def test_tokens_saved_are_counted_on_text_that_they_were_not_chosen_from(
    world: World, diagnose: Diagnose, home: Path
) -> None:
    domain = world.text("foreign")
    advice = diagnose(domain, "adapter=[vocabulary]", "adapter.vocabulary.size=50")
    measured = advice["evidence"]["vocabulary"]
    assert measured["tokens"] == 50
    assert measured["parameters"] == 50 * 64
    assert 0.3 < measured["saved"]["value"] < 0.9
    assert measured["saved"]["low"] < measured["saved"]["value"] < measured["saved"]["high"]
    assert measured["saved_general"] == pytest.approx(0, abs=0.01)
    # The same tokenizer, as the advised stage makes it, on the same texts.
    quick = ["trainer.max_steps=1", "data.batch_size=2", "stage.sample_tokens=0", "evaluator=[]"]
    accelerated = ["trainer.accelerator=cpu", "preflight=off"]
    result = run(compose([*advice["overrides"], *quick, *accelerated]), home.parent / "next")
    extended = AutoTokenizer.from_pretrained(result.checkpoint)
    original = AutoTokenizer.from_pretrained(world.checkpoint)
    assert len(extended) == len(original) + 50
    texts = [line.split('"')[3] for line in domain.read_text().splitlines()]
    counts = [
        sum(map(len, each(texts, add_special_tokens=False)["input_ids"]))
        for each in (extended, original)
    ]
    assert measured["saved"]["value"] == pytest.approx(1 - counts[0] / counts[1], abs=0.02)


def test_the_cost_of_a_model_does_not_depend_on_where_it_lies() -> None:
    with torch.device("meta"):
        assert cost(llama(tied=True), 110)[0] == 160
