"""lm-evaluation-harness on our model: the same numbers as ours, on the same text."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from ontogeny import ConfigError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.intervals import ratio_interval
from ontogeny.options import Data
from ontogeny.precision import autocast
from ontogeny.scoring import score_texts
from ontogeny.testing import byte_tokenizer, check_evaluator
from ontogeny_plugins.lm_eval import LMEval
from ontogeny_plugins.lm_eval.evaluator import LMEvalEvaluator

REASON = "lm_eval is an optional extra: pip install 'ontogeny[lm_eval]'"
# Windows of 64 tokens: texts that fit into one, fill whole ones, or leave something over.
TEXTS = [
    "The river ran on past an old mill where nobody had ground corn.",
    "Ünïcödé, 日本 and 🙂!",
    "short",
    "xy" * 64,
    "The mill stood empty for a hundred years, and then it burned. " * 3,
    "A second text,\n\nwith an empty line in it.",
]
TEXT_TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
CHOICE_TASK = """
task: own_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip without the package; let it keep its copies of the data here."""
    pytest.importorskip("lm_eval", reason=REASON)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def bundle() -> Bundle:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, num_attention_heads=2, **sizes, **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return Bundle(cast("Any", model.eval()), byte_tokenizer(), cast("Any", None))


def written(folder: Path, name: str, rows: list[dict[str, object]], task: str) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(task.format(file=file, name=name))


def measure(own: Bundle, precision: str = "32-true", **options: Any) -> Metrics:
    evaluator = LMEvalEvaluator(LMEval(**options))
    data = EvaluationData({}, Data())
    with torch.no_grad(), autocast(precision, "cpu"):
        evaluator.check(own, data)
        return evaluator.evaluate(own, data)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_harness_and_our_perplexity_agree_to_a_ten_thousandth_of_a_nat_per_token(
    tmp_path: Path, precision: str
) -> None:
    written(tmp_path, "own_text", [{"text": text} for text in TEXTS], TEXT_TASK)
    own = bundle()
    found = measure(own, precision, tasks=["own_text"], path=str(tmp_path), max_length=64)
    with torch.no_grad(), autocast(precision, "cpu"):
        ours = score_texts(own, TEXTS, length=64, batch_size=3)
    tokens = ours.tokens_N.sum()
    bits = found["own_text/bits_per_byte"]
    assert bits.low is not None
    assert bits.high is not None
    assert bits.low < bits.value < bits.high
    _, low, high = ratio_interval(ours.nats_N / math.log(2), ours.bytes_N, 1000)
    assert (bits.low, bits.high) == pytest.approx((low, high), abs=1e-4)
    perplexity = found["own_text/byte_perplexity"]
    assert perplexity.high == pytest.approx(2**bits.high)
    assert tokens == ours.bytes_N.sum()
    nats = found["own_text/bits_per_byte"].value * math.log(2)  # a byte is a token here
    assert nats == pytest.approx(ours.nats_N.sum() / tokens, abs=1e-4)
    assert found["own_text/bits_per_byte"].unit == "bits/byte"


@pytest.mark.usefixtures("offline")
def test_a_tokenizer_that_begins_every_text_itself_begins_it_once(tmp_path: Path) -> None:
    written(tmp_path, "own_text", [{"text": text} for text in TEXTS], TEXT_TASK)
    own, expected = bundle(), measure(bundle(), tasks=["own_text"], path=str(tmp_path))
    start = own.tokenizer.decode([0])
    own.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, 0)]
    )
    assert own.tokenizer("a")["input_ids"][0] == 0
    assert measure(own, tasks=["own_text"], path=str(tmp_path)) == expected


@pytest.mark.usefixtures("offline")
def test_accuracies_come_with_intervals_of_the_harness_own_standard_errors(tmp_path: Path) -> None:
    choices = ["river", "mill", "corn", "stone"]
    rows: list[dict[str, object]] = [
        {"question": f"{number}?", "choices": choices, "answer": number % 4} for number in range(12)
    ]
    written(tmp_path, "own_choice", rows, CHOICE_TASK)
    own, before = bundle(), dict(os.environ)
    found = measure(own, tasks=["own_choice"], path=str(tmp_path))
    assert set(found) == {"own_choice/acc", "own_choice/acc_norm"}
    accuracy = found["own_choice/acc"]
    # Of a mean of 0 and 1: √(p (1 - p) / (n - 1)).
    error = math.sqrt(accuracy.value * (1 - accuracy.value) / 11)
    assert accuracy.high == pytest.approx(accuracy.value + 1.96 * error, abs=1e-4)
    assert accuracy.low == pytest.approx(accuracy.value - 1.96 * error, abs=1e-4)
    assert dict(os.environ) == before
    few = measure(own, tasks=["own_choice"], path=str(tmp_path), limit=3)
    assert few["own_choice/acc"].value * 3 == pytest.approx(round(few["own_choice/acc"].value * 3))


@pytest.mark.usefixtures("offline")
def test_it_keeps_the_contract_of_evaluators(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question": "q", "choices": ["a", "b"], "answer": 0}] * 4
    written(tmp_path, "own_choice", rows, CHOICE_TASK)
    options = ["evaluator.lm_eval.tasks=[own_choice]", f"evaluator.lm_eval.path={tmp_path}"]
    check_evaluator("lm_eval", overrides=options)


@pytest.mark.usefixtures("offline")
def test_the_tokenizer_is_left_as_it_was(tmp_path: Path) -> None:
    written(tmp_path, "own_text", [{"text": "abc"}], TEXT_TASK)
    own = bundle()
    own.tokenizer.pad_token = None
    measure(own, tasks=["own_text"], path=str(tmp_path))
    assert own.tokenizer.pad_token is None


@pytest.mark.usefixtures("offline")
@pytest.mark.slow  # looks through the thousands of task files of the package
def test_a_task_that_nobody_knows_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"names 'lambada_opnai' \(did you mean 'lambada_openai'"):
        measure(bundle(), tasks=["lambada_opnai"])


@pytest.mark.usefixtures("offline")
def test_a_folder_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="path is 'nowhere', which is no folder"):
        measure(bundle(), tasks=["x"], path="nowhere")


@pytest.mark.usefixtures("offline")
def test_a_chat_template_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, "own_text", [{"text": "abc"}], TEXT_TASK)
    own = bundle()
    own.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat_template is true, but the tokenizer has none"):
        measure(own, tasks=["own_text"], path=str(tmp_path), chat_template=True)


def test_a_model_that_cannot_write_is_an_error() -> None:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    own = bundle()
    own.model = cast(
        "Any", BertForMaskedLM(BertConfig(vocab_size=259, num_attention_heads=1, **sizes))
    )
    with pytest.raises(ConfigError, match="which a BertForMaskedLM cannot"):
        measure(own, tasks=["x"])


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"needs the package lm_eval.*'ontogeny\[lm_eval\]"):
        measure(bundle(), tasks=["x"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "tasks is empty; expected names of tasks"),
        ({"tasks": ["x"], "k": -1}, "k is -1; expected 0 or more"),
        ({"tasks": ["x"], "limit": 0}, "limit is 0; expected 1 or more"),
        ({"tasks": ["x"], "max_length": 0}, "max_length is 0; expected 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.lm_eval.{words}"):
        LMEval(**options)
