"""What new rows cost before any training, in bits per byte: subword <= mean < random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerBase

from ontogeny.adapter import Bundle
from ontogeny.data.corpus import Corpus
from ontogeny.scoring import score_texts
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.adapter import VocabularyAdapter

STEPS, LENGTH = 200, 64
KNOWN = 60  # texts


def trained(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> PhiForCausalLM:
    """Train a small model on the domain in the old tokens; its output layer has a bias."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = PhiForCausalLM(config)
    line = torch.tensor([token for ids in tokenizer(texts)["input_ids"] for token in [0, *ids]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        starts = torch.randint(0, len(line) - LENGTH, (8,)).tolist()
        ids = torch.stack([line[start : start + LENGTH] for start in starts])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def bits(model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    with torch.no_grad():
        bundle = Bundle(model, tokenizer, cast("Any", None))
        return score_texts(bundle, texts, length=LENGTH, batch_size=16).bits_per_byte


def test_new_rows_cost_least_as_means_of_pieces_and_most_at_random(
    corpus: Corpus, tokenizer: Callable[[str], PreTrainedTokenizerBase], domain: list[str]
) -> None:
    given, texts = tokenizer("byte_level"), domain[:KNOWN]
    model = trained(given, texts)  # a model that knows a text has something to lose
    after = {}
    for init in ("subword", "mean", "random"):
        torch.manual_seed(0)
        adapter = VocabularyAdapter(Vocabulary(size=60, init=init))
        extended = adapter.extend(given, corpus)
        bundle = adapter.apply(Bundle(copy.deepcopy(model), given, cast("Any", None)))
        after[init] = bits(bundle.model, extended, texts)
    assert bits(model, given, texts) < after["subword"] <= after["mean"] < after["random"]
