"""Texts become batches, batches losses and predictions: the same for training and evaluation."""
# B rows, T tokens, C classes

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.data.corpus import Corpus
from ontogeny.errors import RowError
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.objective import Row
from ontogeny.options import Data, Source, Validation
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.classification import Classification, ClassificationMetrics
from ontogeny_plugins.classification.encoding import encode, fitted, text_inputs
from ontogeny_plugins.classification.evaluator import ClassificationEvaluator
from ontogeny_plugins.classification.objective import TextClassification

TEXTS = ["short", "a text that is longer", "the longest text of all of them", "x"]
CLS, SEP = 2, 0  # ids of the byte tokenizer that stand in for BERT's


def rows_of(labels: Sequence[object], texts: Sequence[str] = TEXTS) -> list[Row]:
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=False)]


def framing_tokenizer() -> Any:
    """Return the byte tokenizer with a token before a text and one after it, as BERT's."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = cast("Any", byte_tokenizer())
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    mask, end = tokenizer.mask_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{mask} $A {end}",
        pair=f"{mask} $A {end} $B:1 {end}:1",
        special_tokens=[(mask, CLS), (end, SEP)],
    )
    return tokenizer


def surveyed(
    rows: list[Row], folder: Path, max_length: int = 64, **options: Any
) -> tuple[TextClassification, dict[str, object], list[str]]:
    import json

    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(file), max_length=max_length, validation=Validation(share=0.0))
    lines: list[str] = []
    objective = TextClassification(Classification(**options))
    corpus = Corpus(data, objective.columns, Store(folder / "store"), lines.append)
    return objective, objective.survey(corpus), lines


def bert(classes: int, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = BertConfig(
        **sizes, vocab_size=259, num_attention_heads=2, num_labels=classes, **changes
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # predictions that differ
    model.eval()
    return cast("PreTrainedModel", model)


# -------------------------------------------------------------------------------------- encoding


def test_texts_are_tokenised_as_the_tokenizer_does_it() -> None:
    tokenizer = framing_tokenizer()
    for example, text in zip(encode(rows_of("abcd"), tokenizer), TEXTS, strict=True):
        assert example["input_ids"].tolist() == tokenizer(text)["input_ids"]


def test_a_text_that_is_cut_keeps_its_special_tokens_as_the_tokenizers_own_cut_does() -> None:
    tokenizer = framing_tokenizer()
    for length in (6, 10, 40):
        expected = tokenizer(TEXTS, truncation=True, max_length=length)["input_ids"]
        found = [fitted(example, length) for example in encode(rows_of("abcd"), tokenizer)]
        assert [example["input_ids"].tolist() for example in found] == expected


def test_without_special_tokens_a_text_is_just_cut() -> None:
    (example, *_) = encode(rows_of("a", ["abcdef"]), byte_tokenizer())
    assert fitted(example, 3)["input_ids"].tolist() == byte_tokenizer()("abc")["input_ids"]


def test_a_question_and_its_context_are_a_pair() -> None:
    tokenizer = framing_tokenizer()
    row = {"question": "who", "context": "a man", "label": 1}
    (example,) = encode([row], tokenizer)
    pair = tokenizer("who", "a man")
    assert example["input_ids"].tolist() == pair["input_ids"]
    assert example["token_type_ids"].tolist() == pair["token_type_ids"]
    assert sorted(set(pair["token_type_ids"])) == [0, 1]


def test_a_pair_without_a_token_between_is_set_apart_by_a_line() -> None:
    (example,) = encode([{"question": "who", "context": "a man"}], byte_tokenizer())
    assert example["input_ids"].tolist() == byte_tokenizer()("who\na man")["input_ids"]


@pytest.mark.parametrize("context", [None, 3, " "])
def test_a_pair_with_a_part_that_is_no_text_is_named(context: object) -> None:
    rows = [{"text": "fine"}, {"question": "who", "context": context}]
    with pytest.raises(RowError, match=r"context is .*; expected text") as error:
        list(encode(rows, byte_tokenizer()))
    assert error.value.index == 1


def test_padding_has_the_id_that_the_model_knows_it_by() -> None:
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=2,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    ids_BT = torch.randint(3, 259, (2, 9))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 5:] = 0
    batch = {"input_ids": ids_BT * mask_BT, "attention_mask": mask_BT}  # padded with 0, as ours are
    inputs = cast("Any", text_inputs(model, batch))
    assert inputs["input_ids"][1, 5:].tolist() == [1] * 4
    with torch.no_grad():
        alone = model(input_ids=ids_BT[1:, :5]).logits
        torch.testing.assert_close(model(**inputs).logits[1:], alone)


def test_segments_are_for_models_that_have_embeddings_of_them() -> None:
    batch = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    assert "token_type_ids" in text_inputs(bert(2), batch)
    assert "token_type_ids" not in text_inputs(bert(2, type_vocab_size=1), batch)


# ------------------------------------------------------------------------------------- objective


def test_the_survey_tells_the_head_what_labels_there_are(tmp_path: Path) -> None:
    _, facts, lines = surveyed(rows_of(["b", "a", "b", "b"]), tmp_path)
    assert facts["labels"] == ["a", "b"]
    assert facts["problem_type"] == "single_label_classification"
    assert lines == ["labels: 2 classes (single_label): a 1, b 3"]


def test_numbers_with_gaps_are_named_in_a_line(tmp_path: Path) -> None:
    _, _, lines = surveyed(rows_of([3, 5, 3, 9]), tmp_path)
    note = "the numbers 3, 5, 9 are names of classes, whose ids are 0 to 2 in this order"
    assert f"labels: {note}" in lines


def test_a_source_that_is_only_measured_has_no_say(tmp_path: Path) -> None:
    for name, label in (("train", "ab"), ("other", "cd")):
        texts = [f'{{"text": "t{each}", "label": "{each}"}}\n' for each in label]
        (tmp_path / f"{name}.jsonl").write_text("".join(texts))
    sources = {
        "train": Source(str(tmp_path / "train.jsonl")),
        "other": Source(str(tmp_path / "other.jsonl"), weight=0.0),
    }
    sources["train"].weight = 1.0
    data = Data(sources=cast("Any", sources), validation=Validation(share=0.0))
    objective = TextClassification(Classification())
    corpus = Corpus(data, objective.columns, Store(tmp_path), lambda _: None)
    assert objective.survey(corpus)["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "kind", "target"),
    [
        (["a", "b", "a", "b"], torch.int64, [0, 1]),
        ([["a"], ["a", "b"], [], ["b"]], torch.float32, [[1, 0], [1, 1]]),
        ([0.5, 1.0, 2.0, -1.0], torch.float32, [0.5, 1.0]),
    ],
)
def test_a_batch_has_the_targets_of_its_task(
    labels: list[object], kind: torch.dtype, target: list[object], tmp_path: Path
) -> None:
    rows = rows_of(labels)
    objective, _, _ = surveyed(rows, tmp_path)
    examples = list(objective.prepare(rows, byte_tokenizer()))
    batch = objective.collate(examples[:2])
    assert batch["target"].dtype == kind
    assert batch["target"].tolist() == target
    assert batch["input_ids"].shape == (2, len(TEXTS[1]))
    assert batch["attention_mask"].sum(1).tolist() == [len(TEXTS[0]), len(TEXTS[1])]


def test_the_loss_is_that_of_transformers_on_the_same_batch(tmp_path: Path) -> None:
    rows = rows_of(["a", "b", "c", "b"])
    objective, _, _ = surveyed(rows, tmp_path)
    model = bert(3)
    batch = objective.collate(list(objective.prepare(rows, byte_tokenizer())))
    with torch.no_grad():
        loss = objective.loss(model, batch)
        inputs = cast("Any", text_inputs(model, batch))
        theirs = model(**inputs, labels=batch["target"])
    torch.testing.assert_close(loss.total / loss.weight, theirs.loss)
    hits = (theirs.logits.argmax(-1) == batch["target"]).sum()
    assert int(loss.metrics["accuracy"]) == int(hits)


def test_a_label_that_no_row_trains_is_named_with_its_row(tmp_path: Path) -> None:
    objective, _, _ = surveyed(rows_of(["a", "b"]), tmp_path)
    with pytest.raises(RowError, match="label is 'z', which is none of the classes: a, b") as error:
        list(objective.prepare(rows_of(["a", "b", "z"]), byte_tokenizer()))
    assert error.value.index == 2


# ------------------------------------------------------------------------------------- evaluator


def evaluate(
    model: PreTrainedModel, rows: dict[str, list[Row]], length: int = 64, **options: Any
) -> Metrics:
    bundle = Bundle(model, byte_tokenizer(), cast("Any", None))
    evaluator = ClassificationEvaluator(ClassificationMetrics(**{"resamples": 10, **options}))
    data = EvaluationData(rows, Data(max_length=length))
    evaluator.check(bundle, data)
    with torch.no_grad():
        return evaluator.evaluate(bundle, data)


def logits_by_hand(model: PreTrainedModel, texts: Sequence[str]) -> torch.Tensor:
    """Return the logits of each text alone, [B, C]."""
    with torch.no_grad():
        ids = (torch.tensor([byte_tokenizer()(text)["input_ids"]]) for text in texts)
        return torch.cat([model(input_ids=each_BT).logits for each_BT in ids])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predictions_are_those_of_each_text_alone(batch_size: int) -> None:
    model = bert(3)
    texts = [f"{'word ' * (number % 5)}{number}" for number in range(17)]
    said = logits_by_hand(model, texts).argmax(-1)
    labels = [int(each) if number % 3 else (int(each) + 1) % 3 for number, each in enumerate(said)]
    found = evaluate(model, {"data": rows_of(labels, texts)}, batch_size=batch_size)
    assert found["accuracy"].value == pytest.approx(11 / 17)
    counted = {name: metric for name, metric in found.items() if name.startswith("confusion/")}
    for true, predicted in ((0, 0), (1, 0), (2, 1)):
        count = sum(pair == (true, predicted) for pair in zip(labels, said.tolist(), strict=True))
        assert counted[f"confusion/{true}/{predicted}"].value == count


def test_several_sources_are_measured_together_and_each_alone() -> None:
    model = bert(2)
    said = logits_by_hand(model, TEXTS).argmax(-1).tolist()
    right = rows_of(said[:2], TEXTS[:2])
    wrong = rows_of([1 - each for each in said[2:]], TEXTS[2:])
    found = evaluate(model, {"right": right, "wrong": wrong})
    assert found["accuracy"].value == 0.5
    assert found["accuracy/right"].value == 1.0
    assert found["accuracy/wrong"].value == 0.0


def test_many_classes_are_not_listed_one_by_one() -> None:
    names = {number: f"c{number}" for number in range(21)}
    model = bert(21, id2label=names)
    found = evaluate(model, {"data": rows_of(["c0", "c1", "c2", "c3"])})
    assert not [name for name in found if name.startswith(("confusion", "f1/"))]


def test_a_model_for_several_labels_is_measured_as_one() -> None:
    names = {0: "a", 1: "b"}
    model = bert(2, id2label=names, problem_type="multi_label_classification")
    said = (logits_by_hand(model, TEXTS) > 0).tolist()
    labels = [[names[c] for c in range(2) if row[c]] for row in said]
    found = evaluate(model, {"data": rows_of(labels)})
    assert found["accuracy"].value == 1.0
    assert {"macro_f1", "micro_f1", "auroc", "f1/a"} >= {"macro_f1", "micro_f1"}


def test_a_model_for_ordered_labels_is_measured_as_one() -> None:
    model = bert(2)
    model.config.ordinal_labels = ["low", "mid", "high"]
    more = logits_by_hand(model, TEXTS).sigmoid().cumprod(-1)
    said = (more > 0.5).sum(-1).tolist()
    labels = [["low", "mid", "high"][number] for number in said]
    found = evaluate(model, {"data": rows_of(labels)})
    assert found["accuracy"].value == 1.0
    assert found["mae"].value == 0.0


def test_a_model_for_numbers_is_measured_as_one() -> None:
    model = bert(1)
    said = logits_by_hand(model, TEXTS)[:, 0].tolist()
    found = evaluate(model, {"data": rows_of([each + 1 for each in said])})
    assert found["rmse"].value == pytest.approx(1.0, rel=1e-4)
    assert found["pearson"].value == pytest.approx(1.0, rel=1e-4)


def test_a_long_text_is_cut_as_in_training() -> None:
    model = bert(2)
    said = int(logits_by_hand(model, [TEXTS[2][:7]]).argmax())
    found = evaluate(model, {"data": rows_of([said], [TEXTS[2]])}, length=7)
    assert found["accuracy"].value == 1.0


def test_a_label_that_the_model_does_not_know_is_told() -> None:
    model = bert(2, id2label={0: "a", 1: "b"})
    with pytest.raises(DataError, match="row 3 of the held-out rows of data: label is 'z'"):
        evaluate(model, {"data": rows_of(["a", "b", "z"])})


def test_without_rows_there_is_nothing_to_measure() -> None:
    with pytest.raises(DataError, match="no held-out rows to evaluate on"):
        evaluate(bert(2), {"data": []})


@pytest.mark.parametrize("name", ["batch_size", "resamples", "bins"])
def test_sizes_are_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluator.classification.{name} is 0"):
        ClassificationMetrics(**{name: 0})


def test_examples_are_small_arrays_that_can_be_stored() -> None:
    (example, *_) = encode(rows_of("a"), byte_tokenizer())
    assert all(isinstance(column, np.ndarray) for column in example.values())
