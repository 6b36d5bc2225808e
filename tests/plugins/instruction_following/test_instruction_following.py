"""The four numbers of IFEval, on answers that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.evaluated_rows import shipped_rows
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model
from ontogeny_plugins.instruction_following import SHIPPED, InstructionFollowing
from ontogeny_plugins.instruction_following.constraints import (
    CHECKS,
    LANGUAGE,
    constraints_of,
    require_langdetect,
)
from ontogeny_plugins.instruction_following.evaluator import (
    COLUMNS,
    InstructionEvaluator,
    accuracies,
)

NO_COMMA = {"id": "punctuation:no_comma", "kwargs": {}}
LOWER = {"id": "change_case:english_lowercase", "kwargs": {}}


def values(metrics: Metrics) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


def test_prompts_and_instructions_are_counted_strictly_and_loosely() -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "1", "instructions": [NO_COMMA, LOWER]},
        {"prompt": "2", "instructions": [NO_COMMA]},
        {"prompt": "3", "instructions": [LOWER]},
    ]
    # Both followed; the comma is not forgiven; the first line is, but only loosely.
    found = accuracies(rows, ["all well", "a, b", "Sure!\nall well"])
    assert values(found) == {
        "prompt_accuracy_strict": pytest.approx(1 / 3),
        "instruction_accuracy_strict": pytest.approx(2 / 4),
        "prompt_accuracy_loose": pytest.approx(2 / 3),
        "instruction_accuracy_loose": pytest.approx(3 / 4),
    }
    for metric in found.values():
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < metric.value < metric.high


def test_a_prompt_counts_when_all_of_its_instructions_are_followed() -> None:
    rows = [{"prompt": "1", "instructions": [NO_COMMA, LOWER]}]
    found = values(accuracies(rows, ["Not lower"]))
    assert found["prompt_accuracy_strict"] == 0
    assert found["instruction_accuracy_strict"] == 0.5


def writer(text: str) -> Bundle:
    """Return a model that writes one text (of different letters) after whatever prompt."""
    tokenizer, logits = byte_tokenizer(), torch.zeros(259, 259)
    ids = tokenizer(text)["input_ids"]
    logits[:, ids[0]] = 30.0
    for here, after in zip(ids, [*ids[1:], 0], strict=True):
        logits[here, after] = 60.0
    tokenizer.chat_template = None
    return Bundle(bigram_model(logits, context=600), tokenizer, cast("Any", None))


def measure(own: Bundle, **options: Any) -> Metrics:
    evaluator = InstructionEvaluator(InstructionFollowing(**{"max_tokens": 30, **options}))
    # The user's own names for columns say nothing about what ships along.
    data = EvaluationData({}, Data(prompt_column="question") if "path" not in options else Data())
    with torch.no_grad():
        evaluator.check(own, data)
        return evaluator.evaluate(own, data)


def test_the_shipped_prompts_are_measured_without_any_data() -> None:
    found = values(measure(writer("plain words")))
    rows = shipped_rows(SHIPPED, COLUMNS)
    expected = values(accuracies(rows, ["plain words"] * len(rows)))
    assert found == expected
    assert 0 < found["prompt_accuracy_strict"] < found["instruction_accuracy_strict"] < 1
    assert len(measure(writer("plain words"), limit=5)) == 4


def test_forty_prompts_ship_along_with_every_kind_but_languages() -> None:
    rows = shipped_rows(SHIPPED, COLUMNS)
    assert len({str(row["prompt"]) for row in rows}) == 40
    kinds = {constraint.kind for row in rows for constraint in constraints_of(row)}
    assert kinds == set(CHECKS) - {LANGUAGE}


def test_ifevals_own_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "input_data.jsonl"
    row = {
        "key": 1000,
        "prompt": "Write.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        # As its file on the Hub fills up what an instruction does not take.
        "kwargs": [
            {"num_words": None, "relation": None},
            {"num_words": 2.0, "relation": "at least"},
        ],
    }
    file.write_text(json.dumps(row) + "\n")
    found = values(measure(writer("plain words"), path=str(file)))
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (
            [{"id": "punctuation:no_coma"}],
            r"the instruction 'punctuation:no_coma' \(did you mea",
        ),
        ([{"id": None}], "has the instruction None; known: keywords:existence"),
        (["punctuation:no_comma"], r"expected a list of \{id, kwargs\}"),
        ([], "has no instructions; expected one or more"),
        (
            [{"id": "length_constraints:number_words", "kwargs": {"num_words": 3}}],
            "number_words has relation None; expected 'less than' or 'at least'",
        ),
        (
            [{"id": "keywords:existence", "kwargs": {"keywords": "one"}}],
            "keywords:existence has keywords 'one'; expected a list of texts",
        ),
        (
            [{"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 1.5}}],
            "has num_bullets 1.5; expected a whole number",
        ),
        (
            [{"id": "punctuation:no_comma", "kwargs": {"num_words": 3}}],
            "punctuation:no_comma takes no num_words; expected nothing",
        ),
    ],
)
def test_instructions_that_cannot_be_verified_are_an_error(
    instructions: list[object], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        constraints_of({"prompt": "Write.", "instructions": instructions})


def test_lists_of_different_length_are_an_error() -> None:
    row = {"prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}
    with pytest.raises(DataError, match="no lists of the same length"):
        constraints_of(row)


def test_languages_need_a_package_which_the_error_names(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "x", "instructions": [{"id": LANGUAGE, "kwargs": {"language": "de"}}]}
    require_langdetect(constraints_of(row))
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(ConfigError, match=r"needs the package langdetect: .*ontogeny\[eval\]"):
        require_langdetect(constraints_of(row))
    require_langdetect(constraints_of({"prompt": "x", "instructions": [NO_COMMA]}))


def test_prompts_that_leave_no_room_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"evaluator.instruction_following.max_tokens is 590 and"):
        measure(writer("x"), max_tokens=590)


@pytest.mark.parametrize("option", ["max_tokens", "batch_size", "limit"])
def test_options_below_one_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"instruction_following.{option} is 0; expected 1 or mo"):
        InstructionFollowing(**{option: 0})
