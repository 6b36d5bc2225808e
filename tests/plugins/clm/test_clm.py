"""Causal language modelling: aligned labels, exact packing, and a loss that starts at ln V."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ontogeny.attention import model_inputs
from ontogeny.data.collation import pad_row
from ontogeny.data.packing import best_fit_bins, pack, split_spans
from ontogeny.data.pipeline import SourceReader, TrainingRows, prepare_source
from ontogeny.objective import Example
from ontogeny.options import Data, Validation
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.clm import CLM
from ontogeny_plugins.clm.objective import CausalLM

TEXTS = ["Hello.", "A longer document, with an ümlaut.", "x", "The third: 日本語 and 🙂.\n\nEnd."]


def examples(config: CLM | None = None, texts: list[str] | None = None) -> list[Example]:
    rows = [{"text": text} for text in texts or TEXTS]
    return list(CausalLM(config or CLM()).prepare(rows, byte_tokenizer()))


def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    vocabulary = len(byte_tokenizer())
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    common: dict[str, Any] = {**sizes, "vocab_size": vocabulary, "num_hidden_layers": 2}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**common)),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0)
        ),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**common, num_key_value_heads=1, head_dim=16)),
        "bert": BertLMHeadModel(BertConfig(**common, is_decoder=True)),
    }


every_model = pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "bert"])


@pytest.fixture(scope="module")
def built() -> dict[str, PreTrainedModel]:
    return {name: model.eval().double() for name, model in models().items()}


def loss(model: nn.Module, rows: list[Example]) -> torch.Tensor:
    objective = CausalLM(CLM())
    return objective.loss(model, objective.collate(rows)).total


# ------------------------------------------------------------------------------------ examples


def test_a_label_is_the_token_after_its_position() -> None:
    for example, text in zip(examples(), TEXTS, strict=True):
        document = [0, *cast("list[int]", byte_tokenizer()(text)["input_ids"]), 0]
        assert example["input_ids"].tolist() == document[:-1]
        assert example["labels"].tolist() == document[1:]
        assert example["input_ids"].dtype == np.int32


def test_without_a_start_the_first_token_is_never_predicted() -> None:
    (example,) = examples(CLM(document_start=False), ["abc"])
    ids = byte_tokenizer()("abc")["input_ids"]
    assert example["input_ids"].tolist() == ids
    assert example["labels"].tolist() == [*ids[1:], 0]


def test_without_an_end_nothing_is_predicted_after_the_last_token() -> None:
    (example,) = examples(CLM(document_end=False), ["abc"])
    ids = byte_tokenizer()("abc")["input_ids"]
    assert example["input_ids"].tolist() == [0, *ids[:-1]]
    assert example["labels"].tolist() == ids


def test_a_document_of_one_token_without_start_and_end_asks_for_nothing() -> None:
    (example,) = examples(CLM(document_start=False, document_end=False), ["a"])
    assert len(example["input_ids"]) == 0


def test_a_tokenizer_with_a_start_of_its_own_uses_it() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "a"
    (example,) = CausalLM(CLM()).prepare([{"text": "b"}], tokenizer)
    start, b = (tokenizer.get_vocab()[letter] for letter in "ab")
    assert example["input_ids"].tolist() == [start, b]
    assert example["labels"].tolist() == [b, tokenizer.eos_token_id]


def test_a_tokenizer_without_special_tokens_adds_none() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    (example,) = CausalLM(CLM()).prepare([{"text": "ab"}], tokenizer)
    assert len(example["input_ids"]) == 1


def test_every_token_of_a_long_document_is_a_label_once_also_over_the_cuts(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    text = "".join(f"sentence {number}. " for number in range(200))
    file.write_text(text)
    data = Data(
        path=str(file), text_unit="document", max_length=32, validation=Validation(share=0.0)
    )
    objective, tokenizer = CausalLM(CLM()), byte_tokenizer()
    reader = SourceReader("data", str(file), data, objective.columns)
    source = prepare_source(reader, objective, None, tokenizer, "", Store(tmp_path), None)
    rows = TrainingRows([source], objective, data, seed=0)
    pairs: list[tuple[int, int]] = []
    for position in range(len(rows)):
        row = rows[position]
        real = row["labels"] != -100
        pairs += zip(row["input_ids"][real].tolist(), row["labels"][real].tolist(), strict=True)
    document = [0, *tokenizer(text)["input_ids"], 0]
    assert sorted(pairs) == sorted(pairwise(document))


# ------------------------------------------------------------------------------------------ loss


@every_model
def test_the_loss_is_the_sum_of_cross_entropies(
    name: str, built: dict[str, PreTrainedModel]
) -> None:
    model, batch = built[name], CausalLM(CLM()).collate(examples())
    with torch.no_grad():
        logits_BTV = model(**model_inputs(model, batch)).logits
        expected = nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        )
        found = CausalLM(CLM()).loss(model, batch)
    torch.testing.assert_close(found.total, expected)
    assert int(found.weight) == sum(len(example["labels"]) for example in examples())


@every_model
def test_a_packed_row_has_the_loss_of_its_documents_alone(
    name: str, built: dict[str, PreTrainedModel]
) -> None:
    rows, model = examples(), built[name]
    alone = sum(loss(model, [row]).item() for row in rows)
    packed = loss(model, [pad_row(pack(rows), 120)]).item()
    assert packed == pytest.approx(alone, rel=1e-6)


def test_packed_rows_have_the_gradients_of_their_documents_alone(
    built: dict[str, PreTrainedModel],
) -> None:
    model, rows = built["llama"], examples()

    def gradients(batches: list[list[Example]]) -> torch.Tensor:
        model.zero_grad()
        for batch in batches:
            loss(model, batch).backward()
        parts = [parameter.grad.flatten() for parameter in model.parameters()]  # type: ignore[union-attr]
        return torch.cat(parts)

    torch.testing.assert_close(
        gradients([[pad_row(pack(rows), 128)]]), gradients([[row] for row in rows])
    )


def test_rows_of_split_documents_have_the_loss_of_the_pieces(
    built: dict[str, PreTrainedModel],
) -> None:
    rows, model = examples(), built["llama"]
    spans = split_spans(np.array([len(row["labels"]) for row in rows]), 16)
    pieces = [
        {name: column[start:stop] for name, column in rows[index].items()}
        for index, start, stop in spans.tolist()
    ]
    bins = best_fit_bins(np.array([len(piece["labels"]) for piece in pieces]), 16)
    packed = [pad_row(pack([pieces[index] for index in chosen.tolist()]), 16) for chosen in bins]
    alone = sum(loss(model, [piece]).item() for piece in pieces)
    assert loss(model, packed).item() == pytest.approx(alone, rel=1e-6)


@every_model
def test_a_random_model_begins_near_the_logarithm_of_the_vocabulary(name: str) -> None:
    model, batch = models()[name], CausalLM(CLM()).collate(examples())
    with torch.no_grad():
        found = CausalLM(CLM()).loss(model.eval(), batch)
    mean = float(found.total / found.weight)
    assert mean == pytest.approx(math.log(len(byte_tokenizer())), abs=0.1)
