"""Nats per token, perplexity and bits per byte against plain torch and values by hand."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metric, Metrics
from ontogeny.options import Data
from ontogeny.scoring import score_texts
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.perplexity import Perplexity
from ontogeny_plugins.perplexity.evaluator import PerplexityEvaluator

LENGTH = 16
TEXTS = [
    "short",
    "exactly sixteen!",
    "seventeen letters",
    "A long document that is cut into windows: ünd 🙂 日本語.\n" * 3,
    "é",
]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vocabulary = len(byte_tokenizer())
    config = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=vocabulary)
    # Larger weights than usual: predictions that differ, so that mistakes show.
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.eval()
    return model


def measure(
    model: PreTrainedModel,
    rows: dict[str, list[str]] | list[str],
    tokenizer: Any = None,
    **options: int | None,
) -> Metrics:
    named = rows if isinstance(rows, dict) else {"data": rows}
    data = {name: [{"text": text} for text in texts] for name, texts in named.items()}
    config = Perplexity(**{"resamples": 20, **options})  # type: ignore[arg-type]
    bundle = Bundle(model, tokenizer or byte_tokenizer(), cast("Any", None))
    with torch.no_grad():
        return PerplexityEvaluator(config).evaluate(
            bundle, EvaluationData(data, Data(max_length=LENGTH))
        )


def nats_by_hand(model: PreTrainedModel, text: str, length: int = LENGTH) -> tuple[float, int]:
    """Score a text in windows of plain logits: Σ -ln p, and the number of tokens.

    The last window of a long text begins early, and only what no other one has scored counts.
    """
    ids = [0, *byte_tokenizer()(text)["input_ids"]]
    nats, scored = 0.0, 0
    while scored < len(ids) - 1:
        end = min(scored + length, len(ids) - 1)
        window = torch.tensor([ids[max(0, end - length) : end + 1]])
        with torch.no_grad():
            log_probs_TV = model(window[:, :-1]).logits[0].double().log_softmax(-1)
        new = end - scored
        nats -= float(log_probs_TV.gather(1, window[0, 1:, None])[-new:].sum())
        scored = end
    return nats, scored


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_numbers_are_those_of_plain_logits_also_over_windows(batch_size: int) -> None:
    model = llama()
    found = measure(model, TEXTS, batch_size=batch_size)
    scored = [nats_by_hand(model, text) for text in TEXTS]
    nats = sum(each for each, _ in scored)
    tokens = sum(count for _, count in scored)
    size = sum(len(text.encode()) for text in TEXTS)
    assert tokens == size  # every byte is a token
    assert found["nats_per_token"].value == pytest.approx(nats / tokens, rel=1e-6)
    assert found["perplexity"].value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_the_length_of_the_windows_can_be_chosen() -> None:
    model = llama()
    found = measure(model, TEXTS, max_length=5)
    scored = [nats_by_hand(model, text, 5) for text in TEXTS]
    expected = sum(nats for nats, _ in scored) / sum(tokens for _, tokens in scored)
    assert found["nats_per_token"].value == pytest.approx(expected, rel=1e-6)
    assert found != measure(model, TEXTS)


class Uniform(nn.Module):
    """Says of every token that all are equally likely."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 4)
        self.out = nn.Linear(4, vocabulary, bias=False)
        nn.init.zeros_(self.out.weight)
        self.config = LlamaConfig(vocab_size=vocabulary)

    def can_generate(self) -> bool:
        return True

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, input_ids: torch.Tensor, **_: object) -> dict[str, torch.Tensor]:
        return {"logits": self.out(self.embed(input_ids))}


def test_a_uniform_model_has_the_logarithm_of_its_vocabulary() -> None:
    model = cast("PreTrainedModel", Uniform(len(byte_tokenizer())))
    found = measure(model, TEXTS)
    assert found["nats_per_token"].value == pytest.approx(math.log(259))
    assert found["perplexity"].value == pytest.approx(259)
    # One token a byte: log2 259 = 8.0168…, of which 8 bits are the byte itself.
    assert found["bits_per_byte"].value == pytest.approx(8.016808287686554)
    assert found["bits_per_byte"].low == pytest.approx(found["bits_per_byte"].high)


def test_bits_per_byte_do_not_depend_on_how_a_text_is_cut_into_tokens() -> None:
    # A uniform model over 512 tokens of two bytes each: 9 bits for 2 bytes.
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([a + b for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"][:253])
    assert len(tokenizer) == 512
    model = cast("PreTrainedModel", Uniform(512))
    found = measure(model, ["abcd" * 5], tokenizer)
    assert found["nats_per_token"].value == pytest.approx(math.log(512))
    assert found["bits_per_byte"].value == pytest.approx(4.5)


def test_every_token_counts_once_however_long_its_document_is() -> None:
    texts = ["x" * length for length in range(1, 70)]
    model = cast("PreTrainedModel", Uniform(259))
    with torch.no_grad():
        own = Bundle(model, byte_tokenizer(), cast("Any", None))
        found = score_texts(own, texts, length=LENGTH, batch_size=7)
    assert found.tokens_N.tolist() == list(range(1, 70))
    assert found.nats_N == pytest.approx(math.log(259) * np.arange(1, 70))


def test_without_a_start_the_first_token_is_not_scored() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    model = cast("PreTrainedModel", Uniform(len(tokenizer)))
    found = measure(model, ["abc"], tokenizer)
    assert found["bits_per_byte"].value == pytest.approx(2 * math.log2(259) / 3)


def test_several_sources_are_measured_together_and_each_alone() -> None:
    model = llama()
    found = measure(model, {"a": TEXTS[:2], "b": TEXTS[2:]})
    alone = {name: measure(model, part) for name, part in {"a": TEXTS[:2], "b": TEXTS[2:]}.items()}
    together = measure(model, TEXTS)
    for metric in ("nats_per_token", "perplexity", "bits_per_byte"):
        assert found[metric].value == pytest.approx(together[metric].value)
        for name, part in alone.items():
            assert found[f"{metric}/{name}"].value == pytest.approx(part[metric].value)


def test_a_source_without_rows_is_left_out() -> None:
    assert measure(llama(), {"a": TEXTS, "b": []}).keys() == measure(llama(), TEXTS).keys()


def test_no_rows_at_all_are_an_error_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"no held-out rows to evaluate on: set data.validation"):
        measure(llama(), {"a": []})


def test_a_model_that_predicts_no_next_token_is_refused_with_what_to_choose() -> None:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    masked = BertForMaskedLM(BertConfig(vocab_size=259, num_attention_heads=1, **sizes))
    words = r"a BertForMaskedLM is none; .*evaluator=\[pseudo_perplexity\]"
    with pytest.raises(ConfigError, match=words):
        measure(masked, TEXTS)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=259, d_model=8, d_ff=8, num_layers=1))
    with pytest.raises(ConfigError, match="a T5ForConditionalGeneration is none"):
        measure(t5, TEXTS)


def test_windows_longer_than_the_context_of_the_model_are_refused_before_any_work() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=259, n_embd=8, n_layer=1, n_head=1, n_positions=9)
    )
    words = "evaluator.perplexity.max_length is 10, longer than the context of the model: 9"
    with pytest.raises(ConfigError, match=words):
        measure(model, TEXTS, max_length=10)
    assert measure(model, TEXTS, max_length=9)


def test_the_interval_is_the_bootstrap_over_documents() -> None:
    model = llama()
    found = measure(model, TEXTS, resamples=500)["nats_per_token"]
    scored = np.array([nats_by_hand(model, text) for text in TEXTS])
    random = np.random.default_rng(1)
    drawn = scored[random.integers(0, len(TEXTS), (20_000, len(TEXTS)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.05 * (high - low))
    assert found.high == pytest.approx(high, abs=0.05 * (high - low))


def test_the_numbers_have_their_units_and_lie_in_their_intervals() -> None:
    found = measure(llama(), TEXTS)
    units = {name: metric.unit for name, metric in found.items()}
    assert units == {
        "nats_per_token": "nats/token",
        "perplexity": "1",
        "bits_per_byte": "bits/byte",
    }
    for metric in found.values():
        assert isinstance(metric, Metric)
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high


def test_measuring_twice_gives_the_same_numbers() -> None:
    model = llama()
    assert measure(model, TEXTS) == measure(model, TEXTS)


@pytest.mark.parametrize("option", ["batch_size", "resamples", "max_length"])
def test_options_below_one_are_refused(option: str) -> None:
    with pytest.raises(
        ConfigError, match=f"evaluator.perplexity.{option} is 0; expected 1 or more"
    ):
        Perplexity(**{option: 0})
