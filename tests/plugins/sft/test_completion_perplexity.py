"""Held-out answers, scored token by token against the model's own logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny.adapter import Bundle
from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.objective import Row
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.causal_lm import CausalLM
from ontogeny_plugins.causal_lm.head import CausalLMHead
from ontogeny_plugins.sft import CompletionPerplexity
from ontogeny_plugins.sft.evaluator import CompletionPerplexityEvaluator
from ontogeny_plugins.sft.named_templates import give_template

ROWS: list[Row] = [
    {"prompt": "What is 2 + 2?", "completion": "It is 4."},
    {"prompt": "A longer question, with an ümlaut?", "completion": "Yes, 日本語 and 🙂."},
    {"prompt": "?", "completion": "!"},
]


def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    give_template(tokenizer, "chatml")
    return tokenizer


def causal() -> Bundle:
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=len(tokenizer))
    model = LlamaForCausalLM(config).double().eval()
    return Bundle(model, tokenizer, CausalLMHead(CausalLM()))


def encoder_decoder() -> Bundle:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    config.decoder_start_token_id = config.pad_token_id = 1
    model = T5ForConditionalGeneration(config).double().eval()
    return Bundle(model, tokenizer, CausalLMHead(CausalLM()))


def evaluate(bundle: Bundle, length: int = 512, **rows: list[Row]) -> Metrics:
    evaluator = CompletionPerplexityEvaluator(CompletionPerplexity(batch_size=2, resamples=50))
    with torch.no_grad():
        return evaluator.evaluate(bundle, EvaluationData(rows, Data(max_length=length)))


def nats_of_answer(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> float:
    ids_1T = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logs_TV = model(input_ids=ids_1T).logits[0].log_softmax(-1)
    first = len(prompt) - 1
    return -sum(float(logs_TV[first + place, token]) for place, token in enumerate(answer))


def test_the_metrics_are_those_of_the_answers_and_their_ends_alone() -> None:
    bundle = causal()
    tokenizer = bundle.tokenizer
    nats = tokens = 0.0
    for row in ROWS:
        turn = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        nats += nats_of_answer(bundle.model, prompt, answer)
        tokens += len(answer)
    size = sum(len(str(row["completion"]).encode()) for row in ROWS)
    found = evaluate(bundle, data=ROWS)
    assert found["nats_per_token"].value == pytest.approx(nats / tokens, rel=1e-10)
    assert found["perplexity"].value == pytest.approx(math.exp(nats / tokens), rel=1e-10)
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size, rel=1e-10)
    for metric in found.values():
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high


def test_an_encoder_decoder_is_measured_by_its_decoder() -> None:
    bundle = encoder_decoder()
    nats = []
    for row in ROWS:
        ids_1T = torch.tensor([bundle.tokenizer(row["prompt"])["input_ids"]])
        labels = [*bundle.tokenizer(row["completion"])["input_ids"], bundle.tokenizer.eos_token_id]
        with torch.no_grad():
            mean = bundle.model(input_ids=ids_1T, labels=torch.tensor([labels])).loss
        nats.append((float(mean) * len(labels), len(labels)))
    total, tokens = np.sum(nats, axis=0)
    found = evaluate(bundle, data=ROWS)
    assert found["nats_per_token"].value == pytest.approx(total / tokens, rel=1e-10)


def test_several_sources_are_also_measured_on_their_own() -> None:
    bundle = causal()
    found = evaluate(bundle, one=ROWS[:1], two=ROWS[1:])
    alone = evaluate(bundle, one=ROWS[:1])
    assert found["nats_per_token/one"].value == pytest.approx(alone["nats_per_token"].value)
    assert found["nats_per_token"].value == pytest.approx(
        evaluate(bundle, data=ROWS)["nats_per_token"].value
    )


def test_answers_beyond_the_length_of_a_row_are_left_out() -> None:
    bundle = causal()
    long: Row = {"prompt": "x" * 80, "completion": "never seen"}
    expected = evaluate(bundle, 64, data=[ROWS[0]])["nats_per_token"]
    assert evaluate(bundle, 64, data=[ROWS[0], long])["nats_per_token"] == expected
    with pytest.raises(DataError, match=r"no held-out row of data has an answer within data.max_l"):
        evaluate(bundle, 64, data=[long])


def test_bad_rows_and_no_rows_are_told_before_the_training() -> None:
    evaluator = CompletionPerplexityEvaluator(CompletionPerplexity())
    bad: list[Row] = [ROWS[0], {"prompt": "a", "completion": ""}]
    with pytest.raises(DataError, match="held-out row 2 of validation: the completion is empty"):
        evaluator.check(causal(), EvaluationData({"validation": bad}, Data()))
    skipping = EvaluationData({"validation": bad}, Data(on_error="skip"))
    with torch.no_grad():
        assert evaluator.evaluate(causal(), skipping) == evaluator.evaluate(
            causal(), EvaluationData({"validation": bad[:1]}, Data())
        )
    with pytest.raises(DataError, match="no held-out rows to evaluate on: set"):
        evaluator.check(causal(), EvaluationData({}, Data()))


@pytest.mark.parametrize("name", ["batch_size", "resamples"])
def test_wrong_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.completion_perplexity.{name} is 0; expected"):
        CompletionPerplexity(**{name: 0})
