"""LoRA under other heads than a language model's: it starts as its base, is kept, and opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from torch import Tensor
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.models import load_pretrained
from ontogeny.objective import IGNORED, Batch
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny_plugins.lora import Lora
from ontogeny_plugins.lora.forward import computed, token_batches

Apply = Callable[..., Adapter]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture
def roberta(tmp_path: Path, bundle: Bundle) -> Path:
    """Return the checkpoint of a RoBERTa, whose classifier is a module of two layers."""
    seed_everything("weights")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = RobertaConfig(vocab_size=259, num_attention_heads=2, **sizes)
    model = RobertaForMaskedLM(config)
    return save_checkpoint(Bundle(model, bundle.tokenizer, bundle.head), tmp_path / "roberta", {})


def open_as(auto: type, folder: Path) -> PreTrainedModel:
    labels = 2 if auto is AutoModelForQuestionAnswering else 3  # a first and a last token
    return load_pretrained(auto, Model(source=str(folder)), {"num_labels": labels})


@pytest.mark.parametrize(
    "auto",
    [
        AutoModelForSequenceClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    ],
    ids=lambda auto: auto.__name__,
)
def test_the_start_is_proven_whatever_the_head_returns(
    auto: type, roberta: Path, bundle: Bundle, apply: Apply, ids_BT: Tensor
) -> None:
    model = open_as(auto, roberta).eval()
    bundle = Bundle(model, bundle.tokenizer, bundle.head)
    adapter = apply(Lora(r=4), bundle)
    _, start, _ = adapter.proofs(bundle, {"input_ids": ids_BT})
    assert (start.holds, start.evidence) == (True, "outputs move by 0.0e+00, relative")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.add_(0.1 if ".lora_B." in name else 0.0)
    _, start, _ = adapter.proofs(bundle, {"input_ids": ids_BT})
    assert start.holds is False


def test_every_part_of_a_batch_that_one_model_is_run_on_is_compared(ids_BT: Tensor) -> None:
    batch = {
        "chosen_input_ids": ids_BT,
        "chosen_attention_mask": ids_BT,
        "rejected_input_ids": ids_BT,
    }
    assert [[*part] for part in token_batches(batch)] == [
        ["input_ids", "attention_mask"],
        ["input_ids"],
    ]
    pair = {"input_ids": ids_BT, "decoder_input_ids": ids_BT}
    assert [[*part] for part in token_batches(pair)] == [["input_ids", "decoder_input_ids"]]
    assert list(token_batches({"target": ids_BT})) == []


def test_pairs_of_texts_prove_the_start_too(bundle: Bundle, apply: Apply, ids_BT: Tensor) -> None:
    adapter = apply(Lora(r=4), bundle)
    pairs: Batch = {"chosen_input_ids": ids_BT, "rejected_input_ids": ids_BT.flip(0)}
    assert [proof.holds for proof in adapter.proofs(bundle, pairs)] == [True, True, True]


def test_the_states_of_the_body_stand_for_a_head_of_choices(roberta: Path, ids_BT: Tensor) -> None:
    model = open_as(AutoModelForMultipleChoice, roberta).eval()
    states, *_ = computed(model, {"input_ids": ids_BT})
    assert states.shape == (*ids_BT.shape, 32)


def test_a_head_of_two_layers_opens_in_pefts_own_class_for_the_task(
    roberta: Path, bundle: Bundle, apply: Apply, ids_BT: Tensor, tmp_path: Path
) -> None:
    """That class looks for the classifier as one module."""
    model = open_as(AutoModelForSequenceClassification, roberta)
    classifier = Bundle(model, bundle.tokenizer, bundle.head)
    adapter = apply(Lora(r=4, merge=False), classifier)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(ids_BT).logits.square().mean().backward()
    optimizer.step()
    folder = save_checkpoint(adapter.settle(classifier), tmp_path / "adapter", {})
    expected = model.eval()(ids_BT).logits
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier"]
    opened = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    torch.testing.assert_close(opened(ids_BT).logits, expected, atol=1e-6, rtol=1e-5)
    again = open_as(AutoModelForSequenceClassification, folder).eval()
    torch.testing.assert_close(again(ids_BT).logits, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("init", ["default", "eva", "corda"])
def test_a_decoder_that_writes_reads_the_labels_of_the_batch(
    init: str, bundle: Bundle, apply: Apply, ids_BT: Tensor
) -> None:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = T5ForConditionalGeneration(T5Config(vocab_size=259, dropout_rate=0.0, **sizes, **ids))
    writer = Bundle(model, bundle.tokenizer, bundle.head)
    labels_BU = ids_BT[:, :12].clone()
    labels_BU[0, 8:] = IGNORED
    batch = {"input_ids": ids_BT, "labels": labels_BU}
    before = computed(model, batch)[0]
    assert before.shape == (2, 12, 259)
    torch.testing.assert_close(before, model(ids_BT, labels=labels_BU).logits)
    adapter = apply(Lora(r=4, init=init), writer)
    adapter.initialise(writer, [batch])
    holds = [proof.holds for proof in adapter.proofs(writer, batch)]
    assert holds == [True, True, True]
    torch.testing.assert_close(computed(model, batch)[0], before, atol=1e-5, rtol=1e-5)
