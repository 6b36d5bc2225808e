"""The choice between texts: rows with unequal numbers of choices, of unequal length."""
# B rows, C choices, M choices of all rows, T tokens

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from transformers import BertConfig, BertForMultipleChoice, PreTrainedModel

from ontogeny import DataError
from ontogeny.adapter import Bundle
from ontogeny.errors import RowError
from ontogeny.evaluator import EvaluationData
from ontogeny.objective import Row
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.classification import MultipleChoice, MultipleChoiceMetrics
from ontogeny_plugins.classification.choices import ChoiceOfTexts, choice_logits
from ontogeny_plugins.classification.choices_evaluator import MultipleChoiceEvaluator

ROWS: list[Row] = [
    {"question": "what", "choices": ["a", "a longer one"], "label": 1},
    {"question": "which of them", "choices": ["x", "yy", "zzz", "w"], "label": 0},
    {
        "context": "it was night",
        "question": "when",
        "choices": ["day", "night", "noon"],
        "label": 1,
    },
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    built = BertForMultipleChoice(BertConfig(**sizes, vocab_size=259, num_attention_heads=2))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    built.eval()
    return cast("PreTrainedModel", built)


def objective(max_length: int = 64) -> ChoiceOfTexts:
    built = ChoiceOfTexts(MultipleChoice())
    built.max_length = max_length
    return built


def texts_of(row: Row) -> list[str]:
    """Return what the model reads: the byte tokenizer puts no token between two texts."""
    choices, question = cast("list[str]", row["choices"]), row["question"]
    if "context" in row:
        return [f"{row['context']}\n{question} {choice}" for choice in choices]
    return [f"{question}\n{choice}" for choice in choices]


def scores_by_hand(model: PreTrainedModel, row: Row) -> torch.Tensor:
    """Return the score of each choice, read alone."""
    ids = (byte_tokenizer()(text)["input_ids"] for text in texts_of(row))
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([[each]])).logits[0] for each in ids])


def test_the_scores_are_those_of_each_choice_alone(model: PreTrainedModel) -> None:
    examples = list(objective().prepare(ROWS, byte_tokenizer()))
    with torch.no_grad():
        logits_BC = choice_logits(model, objective().collate(examples))
    assert logits_BC.shape == (3, 4)
    for found_C, row in zip(logits_BC, ROWS, strict=True):
        expected = scores_by_hand(model, row)
        torch.testing.assert_close(found_C[: len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert float(found_C.softmax(-1)[len(expected) :].sum()) == 0


def test_the_loss_is_the_cross_entropy_over_the_choices_of_each_row(
    model: PreTrainedModel,
) -> None:
    batch = objective().collate(list(objective().prepare(ROWS, byte_tokenizer())))
    with torch.no_grad():
        loss = objective().loss(model, batch)
    expected = [
        -scores_by_hand(model, row).log_softmax(-1)[cast("int", row["label"])] for row in ROWS
    ]
    torch.testing.assert_close(loss.total, torch.stack(expected).sum(), rtol=1e-4, atol=1e-4)
    assert float(loss.weight) == 3


def test_the_evaluator_counts_right_choices(model: PreTrainedModel) -> None:
    rows = [{**row, "label": int(scores_by_hand(model, row).argmax())} for row in ROWS]
    rows[0]["label"] = 1 - cast("int", rows[0]["label"])
    bundle = Bundle(model, byte_tokenizer(), cast("Any", None))
    evaluator = MultipleChoiceEvaluator(MultipleChoiceMetrics(batch_size=2, resamples=10))
    for sources in ({"data": rows}, {"one": rows[:1], "rest": rows[1:]}):
        data = EvaluationData(sources, Data(max_length=64))
        evaluator.check(bundle, data)
        with torch.no_grad():
            found = evaluator.evaluate(bundle, data)
        assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy/one"].value == 0.0
    assert found["accuracy/rest"].value == 1.0


def test_a_label_may_be_the_text_of_the_choice() -> None:
    (example,) = objective().prepare([{**ROWS[0], "label": "a longer one"}], byte_tokenizer())
    assert int(example["target"]) == 1


def test_texts_that_are_too_long_are_cut_and_counted() -> None:
    examples = list(objective(8).prepare(ROWS, byte_tokenizer()))
    assert [int(example["truncated"]) for example in examples] == [1, 1, 1]
    assert examples[0]["lengths"].tolist() == [len("what\na"), 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "label is 2; expected 0 to 1, the number of the right choice"),
        ({"label": "neither"}, "label is 'neither'; expected 0 to 1"),
        ({"label": True}, "label is True; expected 0 to 1"),
        ({"choices": ["only"]}, r"choices is \['only'\]; expected a list of two texts or more"),
        ({"choices": "a, b"}, "choices is 'a, b'; expected a list of two texts or more"),
        ({"choices": ["a", 3]}, r"choices is \['a', 3\]; expected a list of two texts or more"),
        ({"question": 5}, "question is a int; expected text"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    rows = [ROWS[0], {**ROWS[0], **change}]
    with pytest.raises(RowError, match=message) as error:
        list(objective().prepare(rows, byte_tokenizer()))
    assert error.value.index == 1


def test_a_held_out_row_that_does_not_fit_is_named(model: PreTrainedModel) -> None:
    bundle = Bundle(model, byte_tokenizer(), cast("Any", None))
    data = EvaluationData({"data": [ROWS[0], {**ROWS[0], "label": 9}]}, Data(max_length=64))
    with pytest.raises(DataError, match="row 2 of the held-out rows of data: label is 9"):
        MultipleChoiceEvaluator(MultipleChoiceMetrics()).check(bundle, data)
