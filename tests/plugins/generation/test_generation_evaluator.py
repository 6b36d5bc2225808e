"""The evaluator on a model that writes what is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model
from ontogeny_plugins.generation import METRICS, Generation
from ontogeny_plugins.generation.evaluator import GenerationEvaluator


def chain(*texts: str) -> Bundle:
    """Return a model that goes on with the rest of a text from any of its letters, then stops."""
    tokenizer, logits = byte_tokenizer(), torch.zeros(259, 259)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        for here, after in zip(ids, [*ids[1:], 0], strict=True):
            logits[here, after] = 50.0
    tokenizer.chat_template = None
    return Bundle(bigram_model(logits, context=64), tokenizer, cast("Any", None))


def measure(
    own: Bundle, rows: dict[str, list[dict[str, object]]] | list[dict[str, object]], **options: Any
) -> Metrics:
    named = rows if isinstance(rows, dict) else {"data": rows}
    evaluator = GenerationEvaluator(Generation(**{"resamples": 50, "max_tokens": 12, **options}))
    data = EvaluationData(named, Data())
    evaluator.check(own, data)
    with torch.no_grad():
        return evaluator.evaluate(own, data)


def test_a_model_that_writes_the_answers_has_full_marks() -> None:
    rows: list[dict[str, object]] = [
        {"prompt": prompt, "completion": "bcdef gh"} for prompt in ("a", "xa", "yyya")
    ]
    found = measure(chain("abcdef gh"), rows)
    assert list(found) == list(METRICS)
    values = {name: metric.value for name, metric in found.items()}
    assert values["exact_match"] == values["rouge1"] == values["rouge2"] == values["rougeL"] == 1
    assert values["chrf"] == pytest.approx(100)
    units = {name: metric.unit for name, metric in found.items()}
    assert {units[name] for name in ("chrf", "bleu")} == {"points"}
    assert {units[name] for name in ("exact_match", "rouge1")} == {"1"}


def test_the_share_of_exact_answers_is_counted_with_its_interval() -> None:
    own = chain("abc", "xyz")
    answers = ["bc", "bc", "no", "bc"]
    rows = [{"prompt": "a", "completion": answer} for answer in answers]
    found = measure(own, rows, metrics=["exact_match"])["exact_match"]
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson, 3 of 4


def test_several_sources_are_measured_together_and_each_alone() -> None:
    own = chain("abc")
    right: dict[str, object] = {"prompt": "a", "completion": "bc"}
    wrong: dict[str, object] = {"prompt": "a", "completion": "cb"}
    found = measure(own, {"one": [right], "two": [right, wrong]}, metrics=["exact_match"])
    values = {name: metric.value for name, metric in found.items()}
    assert values == {
        "exact_match": pytest.approx(2 / 3),
        "exact_match/one": 1,
        "exact_match/two": 0.5,
    }


def test_rows_of_its_own_stand_for_those_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a", "completion": "bc"}) + "\n")
    found = measure(chain("abc"), {}, path=str(file), metrics=["exact_match"])
    assert found["exact_match"].value == 1
    evaluator = GenerationEvaluator(Generation(path=str(file)))
    assert evaluator.columns == ()
    assert GenerationEvaluator(Generation()).columns == GenerationEvaluator.columns


def test_answers_may_be_drawn_the_same_ones_for_the_same_seed() -> None:
    own = Bundle(bigram_model(torch.zeros(259, 259)), byte_tokenizer(), cast("Any", None))
    rows = [{"prompt": "a", "completion": "the river ran past an old mill"}] * 6
    options: dict[str, Any] = {"metrics": ["chrf"], "temperature": 1.0, "max_tokens": 30}
    first = measure(own, rows, **options)
    assert first == measure(own, rows, **options, batch_size=1)
    assert first != measure(own, rows, **options, seed=1)


def test_rows_without_an_answer_are_an_error_before_anything_is_written() -> None:
    own = chain("abc")
    with pytest.raises(DataError, match="the row 'a' has no answer to compare with"):
        measure(own, [{"prompt": "a", "completion": " "}])
    own.tokenizer.chat_template = byte_tokenizer().chat_template
    turns = [{"role": "user", "content": "a"}]
    with pytest.raises(DataError, match="or messages that end with the assistant's"):
        measure(own, [{"messages": turns}])


def test_answers_that_rouge_cannot_read_are_an_error_with_the_way_out() -> None:
    rows = [{"prompt": "a", "completion": "今天天气很好"}]
    words = r"tokens is words, but 1 of 1 answers have no word of a-z and 0-9.*tokens=characters"
    with pytest.raises(ConfigError, match=words):
        measure(chain("abc"), rows)
    assert measure(chain("abc"), rows, tokens="characters")
    assert measure(chain("abc"), rows, metrics=["chrf"])


def test_prompts_that_leave_no_room_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"evaluator.generation.max_tokens is 12 and the long"):
        measure(chain("abc"), [{"prompt": "x" * 60, "completion": "y"}])


def test_a_model_that_cannot_write_is_an_error() -> None:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = BertForMaskedLM(BertConfig(vocab_size=259, num_attention_heads=1, **sizes))
    with pytest.raises(ConfigError, match=r"evaluator.generation lets the model write"):
        measure(Bundle(model, byte_tokenizer(), cast("Any", None)), [{"prompt": "a"}])


def test_without_sacrebleu_its_metrics_are_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    rows = [{"prompt": "a", "completion": "bc"}]
    with pytest.raises(ConfigError, match=r"needs the package sacrebleu .*ontogeny\[eval\]"):
        measure(chain("abc"), rows)
    assert measure(chain("abc"), rows, metrics=["exact_match", "rougeL"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["blue"]}, "metrics is 'blue'; expected one of exact_match, rouge1"),
        ({"metrics": []}, "metrics is empty; expected some of exact_match, rouge1"),
        ({"tokens": "letters"}, "tokens is 'letters'; expected one of words, characters"),
        ({"template": "chat"}, "template is 'chat'; expected one of auto, plain"),
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 0; expected 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.generation.{words}"):
        Generation(**options)
