"""Pseudo-log-likelihoods against plain torch, one masked copy of a text after the other."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertLMHeadModel,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.pseudo_perplexity import PseudoPerplexity
from ontogeny_plugins.pseudo_perplexity.evaluator import PseudoPerplexityEvaluator

LENGTH = 18  # with the two special tokens: 16 of the text
TEXTS = [
    "short",
    "exactly sixteen!",
    "seventeen letters",
    "is cut into windows: ünd 日本語.\n",
    "é",
]
METRICS = ("nats_per_token", "pseudo_perplexity", "bits_per_byte")
VOCABULARY = len(byte_tokenizer())
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=66),
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=6, cls_token_id=0, sep_token_id=0, bos_token_id=0, eos_token_id=0
    ),
}


@cache
def build(name: str = "bert") -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():  # larger weights than usual: predictions that differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def measure(
    rows: dict[str, list[str]] | list[str],
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **options: Any,
) -> Metrics:
    named = rows if isinstance(rows, dict) else {"data": rows}
    data = {name: [{"text": text} for text in texts] for name, texts in named.items()}
    config = PseudoPerplexity(**{"resamples": 20, "tokens": None, **options})
    bundle = Bundle(model or build(), tokenizer or byte_tokenizer(), cast("Any", None))
    with torch.no_grad():
        return PseudoPerplexityEvaluator(config).evaluate(
            bundle, EvaluationData(data, Data(max_length=LENGTH))
        )


def nats_by_hand(
    text: str, model: PreTrainedModel | None = None, words: list[int] | None = None
) -> list[float]:
    """Score each byte with itself masked, and with words given the later ones of its word too."""
    ids = byte_tokenizer()(text)["input_ids"]
    mask = byte_tokenizer().mask_token_id
    found = []
    for begin in range(0, len(ids), LENGTH - 2):
        window = ids[begin : begin + LENGTH - 2]
        for place, token in enumerate(window):
            shown = list(window)
            for other in range(place, len(window)):
                if other == place or (words and words[begin + other] == words[begin + place]):
                    shown[other] = mask
            with torch.no_grad():
                logits_1TV = (model or build())(torch.tensor([[0, *shown, 0]])).logits
            log_probs_V = logits_1TV[0, place + 1].double().log_softmax(-1)
            found.append(-float(log_probs_V[token]))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_numbers_are_those_of_one_masked_copy_for_each_token(name: str) -> None:
    found = measure(TEXTS, build(name), batch_size=7)
    nats = [each for text in TEXTS for each in nats_by_hand(text, build(name))]
    size = sum(len(text.encode()) for text in TEXTS)
    assert len(nats) == size  # every byte is a token
    mean = sum(nats) / size
    assert found["nats_per_token"].value == pytest.approx(mean, rel=1e-5)
    assert found["pseudo_perplexity"].value == pytest.approx(math.exp(mean), rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(mean / math.log(2), rel=1e-5)


def test_within_a_word_later_tokens_are_masked_too() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    words = [0] * 3 + [1] * 4 + [2] * 2
    nats = nats_by_hand("one two..", words=words)
    found = measure(["one two.."], tokenizer=tokenizer, within_word=True)
    assert found["nats_per_token"].value == pytest.approx(sum(nats) / 9, rel=1e-5)
    assert found != measure(["one two.."], tokenizer=tokenizer)


def test_several_masks_at_once_are_far_from_each_other() -> None:
    text = "abcdefg"
    ids, mask = byte_tokenizer()(text)["input_ids"], byte_tokenizer().mask_token_id
    nats = 0.0
    for hidden in ([0, 3, 6], [1, 4], [2, 5]):
        shown = [mask if place in hidden else token for place, token in enumerate(ids)]
        with torch.no_grad():
            logits_TV = build()(torch.tensor([[0, *shown, 0]])).logits[0].double()
        for place in hidden:
            nats -= float(logits_TV[place + 1].log_softmax(-1)[ids[place]])
    found = measure([text], masks_per_pass=3)
    assert found["nats_per_token"].value == pytest.approx(nats / 7, rel=1e-5)


def test_drawn_tokens_stand_for_all_of_their_document() -> None:
    nats = nats_by_hand(TEXTS[2])
    found = measure([TEXTS[2]], tokens=5)
    chosen = np.random.default_rng(0).permutation(17)[:5]
    mean = sum(nats[place] for place in chosen) / 5
    assert found["nats_per_token"].value == pytest.approx(mean, rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(mean / math.log(2), rel=1e-5)
    assert measure([TEXTS[2]], tokens=17) == measure([TEXTS[2]])


def test_documents_count_by_their_tokens_though_equally_many_are_drawn() -> None:
    texts = TEXTS[:3]
    generator = np.random.default_rng(0)
    means = []
    for text in texts:
        nats = nats_by_hand(text)
        drawn = generator.permutation(len(nats))[:4]
        means.append(sum(nats[place] for place in drawn) / 4)
    expected = np.average(means, weights=[len(text) for text in texts])
    found = measure(texts, tokens=4)
    assert found["nats_per_token"].value == pytest.approx(expected, rel=1e-5)


def test_no_more_documents_are_measured_than_asked_for() -> None:
    chosen = sorted(np.random.default_rng(0).permutation(len(TEXTS))[:2])
    assert measure(TEXTS, documents=2) == measure([TEXTS[index] for index in chosen])


class Uniform(nn.Module):
    """Says of every token that all are equally likely, and counts the positions it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.out = nn.Linear(4, VOCABULARY, bias=False)
        nn.init.zeros_(self.out.weight)
        self.config = BertConfig(vocab_size=VOCABULARY)
        self.rows = 0

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, input_ids: torch.Tensor, **_: object) -> dict[str, torch.Tensor]:
        self.rows += len(input_ids)
        return {"logits": self.out(self.embed(input_ids))}


def test_a_uniform_model_has_the_logarithm_of_its_vocabulary() -> None:
    found = measure(TEXTS, cast("PreTrainedModel", Uniform()))
    assert found["nats_per_token"].value == pytest.approx(math.log(VOCABULARY))
    assert found["pseudo_perplexity"].value == pytest.approx(VOCABULARY)
    assert found["bits_per_byte"].value == pytest.approx(math.log2(VOCABULARY))
    assert found["bits_per_byte"].low == pytest.approx(found["bits_per_byte"].high)


@pytest.mark.parametrize(
    ("options", "rows"),
    # Windows of 16, 16 and 8 tokens, so 4 + 4 + 2 copies of 4 masks at most.
    [({}, 40), ({"masks_per_pass": 4}, 10), ({"tokens": 6}, 6), ({"tokens": 1}, 1)],
)
def test_a_token_costs_a_copy_of_its_window(options: dict[str, int], rows: int) -> None:
    model = Uniform()
    measure(["x" * 40], cast("PreTrainedModel", model), **options)
    assert model.rows == rows


def test_several_sources_are_measured_together_and_each_alone() -> None:
    parts = {"a": TEXTS[:2], "b": TEXTS[2:]}
    found, together = measure(parts), measure(TEXTS)
    for metric in METRICS:
        assert found[metric].value == pytest.approx(together[metric].value)
        for name, part in parts.items():
            assert found[f"{metric}/{name}"].value == pytest.approx(measure(part)[metric].value)


def test_a_source_without_rows_is_left_out() -> None:
    assert measure({"a": TEXTS[:1], "b": []}).keys() == set(METRICS)


def test_the_numbers_have_their_units_and_lie_in_their_intervals() -> None:
    found = measure(TEXTS)
    assert [found[name].unit for name in METRICS] == ["nats/token", "1", "bits/byte"]
    for metric in found.values():
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
    assert found == measure(TEXTS)


# ---------------------------------------------------------------------------------------- errors


def test_no_rows_are_an_error_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"no held-out rows to evaluate on: set data.validation"):
        measure({"a": []})


def test_texts_without_tokens_are_an_error() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError, match="the held-out rows have no tokens to predict"):
        measure(["  "], tokenizer=tokenizer)


def test_a_causal_model_is_refused_with_the_other_evaluator() -> None:
    decoder = BertLMHeadModel(BertConfig(**SIZES, is_decoder=True))
    with pytest.raises(ConfigError, match=r"this BertLMHeadModel is causal; choose 'evaluator=\[p"):
        measure(TEXTS, decoder)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="masks tokens, and the tokenizer has no mask token"):
        measure(TEXTS, tokenizer=tokenizer)


@pytest.mark.parametrize(("length", "words"), [(2, "expected more than the 2"), (65, "model: 64")])
def test_windows_too_short_or_longer_than_the_context_are_refused(length: int, words: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"evaluator.pseudo_perplexity.max_length is {length}.*{words}"
    ):
        measure(TEXTS, max_length=length)


@pytest.mark.parametrize("option", ["max_length", "documents", "tokens", "masks_per_pass"])
def test_options_below_one_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"pseudo_perplexity.{option} is 0; expected 1 or more"):
        PseudoPerplexity(**{option: 0})
