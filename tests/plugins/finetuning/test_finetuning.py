"""Every task, end to end: a tiny model learns it, and its checkpoint is an ordinary folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from ontogeny import ConfigError, compose, run
from ontogeny.errors import DataError
from ontogeny.lifecycle import RunResult

QUICK = [
    "data.max_length=64",
    "data.batch_size=8",
    "optimizer.lr=1e-2",
    "precision=32-true",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
]
WORDS = ("river", "stone", "wind", "light", "house", "road")
EVALUATORS = {
    "finetuning": "classification",
    "finetuning_tagging": "tagging",
    "finetuning_qa": "span_qa",
    "finetuning_choice": "multiple_choice",
    "finetuning_embedding": "retrieval",
}
Rows = Sequence[dict[str, Any]]
Finetune = Callable[..., RunResult]


def sentences(count: int) -> list[str]:
    """Return texts of which each begins with one of the words."""
    return [
        " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(1, 4 + number % 3))
        for number in range(count)
    ]


@pytest.fixture
def finetune(
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> Finetune:
    """Return a function that fine-tunes a tiny model on rows and measures it on the same."""

    def finetune(stage: str, family: str, rows: Rows, *overrides: str) -> RunResult:
        file = write_rows("rows.jsonl", rows)
        paths = [f"model.source={checkpoints(family)}", f"data.path={file}"]
        paths.append(f"data.validation.path={file}")
        fewer = f"evaluator.{EVALUATORS[stage]}.resamples=20"
        config = compose([f"stage={stage}", *paths, *QUICK, fewer, *overrides])
        return run(config, tmp_path / "run")

    return finetune


def metric(result: RunResult, evaluator: str, name: str) -> float:
    return result.metrics["finetuning"][evaluator][name].value


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_classes_are_learnt_and_transformers_opens_the_folder(
    family: str, finetune: Finetune
) -> None:
    rows = [{"text": text, "label": text.split()[0]} for text in sentences(48)]
    result = finetune("finetuning", family, rows, "trainer.max_epochs=10")
    assert metric(result, "classification", "accuracy") > 0.9
    assert result.checkpoint is not None
    model = AutoModelForSequenceClassification.from_pretrained(result.checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    assert set(model.config.label2id) == {row["label"] for row in rows}
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs).logits.argmax(-1).tolist()
    hits = [
        model.config.id2label[each] == row["label"] for each, row in zip(said, rows, strict=True)
    ]
    expected = metric(result, "classification", "accuracy")
    assert sum(hits) / len(hits) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "name", "task"),
    [
        (lambda words: sorted(set(words)), "micro_f1", "auto"),
        (lambda words: len(words) + 0.5, "pearson", "auto"),
        (len, "quadratic_kappa", "ordinal"),
    ],
    ids=["multi_label", "regression", "ordinal"],
)
def test_the_other_tasks_of_whole_texts_are_learnt(
    labels: Callable[[list[str]], Any], name: str, task: str, finetune: Finetune
) -> None:
    rows = [{"text": text, "label": labels(text.split())} for text in sentences(48)]
    options = ["head.pooling=mean", "trainer.max_epochs=12", f"objective.task={task}"]
    result = finetune("finetuning", "bert", rows, *options)
    assert metric(result, "classification", name) > 0.8


def test_a_model_in_true_bfloat16_is_tuned_with_weights_of_classes(finetune: Finetune) -> None:
    rows = [{"text": text, "label": text.split()[0]} for text in sentences(48)]
    options = ["precision=bf16-true", "objective.balanced=true", "trainer.max_epochs=10"]
    result = finetune("finetuning", "bert", rows, *options)
    assert metric(result, "classification", "accuracy") > 0.9


def test_tags_are_learnt_and_transformers_opens_the_folder(finetune: Finetune) -> None:
    tags = {"river": "B-WATER", "stone": "B-LAND", "house": "I-LAND"}
    rows = [
        {"tokens": text.split(), "tags": [tags.get(word, "O") for word in text.split()]}
        for text in sentences(48)
    ]
    result = finetune("finetuning_tagging", "bert", rows, "trainer.max_epochs=8")
    assert metric(result, "tagging", "span_f1") > 0.8
    model = AutoModelForTokenClassification.from_pretrained(result.checkpoint)
    assert list(model.config.label2id) == ["B-LAND", "B-WATER", "I-LAND", "O"]


@pytest.mark.slow
def test_packed_tags_are_learnt_too(finetune: Finetune) -> None:
    rows = [
        {"tokens": text.split(), "tags": ["X" if word[0] in "rs" else "O" for word in text.split()]}
        for text in sentences(48)
    ]
    options = ["trainer.max_epochs=16", "data.packing=true", "data.batch_size=4"]
    result = finetune("finetuning_tagging", "llama", rows, *options)
    assert metric(result, "tagging", "accuracy") > 0.9


def test_answers_are_found_and_transformers_opens_the_folder(finetune: Finetune) -> None:
    rows = []
    for number, text in enumerate(sentences(48)):
        context = f"{text} (at {'day' if number % 2 else 'night'}) {text}"
        answer = "day" if number % 2 else "night"
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        rows.append({"question": "when?", "context": context, "answers": answers})
    sizes = ["objective.stride=16", "evaluator.span_qa.stride=16", "trainer.max_epochs=8"]
    result = finetune("finetuning_qa", "bert", rows, *sizes)
    assert metric(result, "span_qa", "exact_match") > 0.8
    model = AutoModelForQuestionAnswering.from_pretrained(result.checkpoint)
    assert model.config.unanswerable is False


def test_choices_are_learnt(finetune: Finetune) -> None:
    rows = []
    for number, text in enumerate(sentences(32)):
        choices = ["it goes on", "it ends"] + ["it may be"] * (number % 2)
        label = (number // 2) % 2
        choices[0], choices[label] = choices[label], choices[0]
        rows.append({"question": text, "choices": choices, "label": label})
    result = finetune("finetuning_choice", "llama", rows, "trainer.max_epochs=6")
    assert metric(result, "multiple_choice", "accuracy") > 0.9


def test_texts_that_belong_together_come_near(finetune: Finetune) -> None:
    rows = [
        {"prompt": f"{word} {number}", "completion": f"{word.upper()}!"}
        for number, word in enumerate(WORDS * 6)
    ]
    result = finetune("finetuning_embedding", "bert", rows, "trainer.max_epochs=12")
    assert metric(result, "retrieval", "recall_at_1") > 0.8


# -------------------------------------------------------------------- what goes wrong, and is said


def test_without_a_model_and_a_tokenizer_there_is_nothing_to_tune(
    home: Path, tmp_path: Path, write_rows: Callable[[str, Rows], Path]
) -> None:
    file = write_rows("rows.jsonl", [{"text": "a", "label": "b"}])
    config = compose(["stage=finetuning", f"data.path={file}"])
    with pytest.raises(ConfigError, match=r"model.source is not set; finetuning goes on from"):
        run(config, tmp_path / "run")


def test_random_weights_can_be_tuned_with_a_tokenizer(
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    rows = [{"text": text, "label": text[0]} for text in sentences(12)]
    file = write_rows("rows.jsonl", rows)
    overrides = [
        "model=bert_tiny",
        f"tokenizer.source={checkpoints('llama')}",
        "data.path=" + str(file),
    ]
    config = compose(["stage=finetuning", *overrides, *QUICK, "trainer.max_steps=1"])
    result = run(config, tmp_path / "run")
    assert AutoModelForSequenceClassification.from_pretrained(result.checkpoint).num_labels > 1


def test_a_checkpoint_without_the_head_is_not_evaluated_with_a_random_one(
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    file = write_rows("rows.jsonl", [{"text": "a", "label": 0}])
    head = ["head=sequence_classification", "evaluator=[classification]"]
    source = f"model.source={checkpoints('llama')}"
    config = compose(["stage=evaluation", source, f"data.path={file}", "data.max_length=64", *head])
    with pytest.raises(ConfigError, match=r"the output layer that it needs is not in there"):
        run(config, tmp_path / "run")


Bad = tuple[str, dict[str, Any], dict[str, Any], str]
BAD: list[Bad] = [
    (
        "finetuning",
        {"text": "a text", "label": "a"},
        {"text": "a text", "label": ["a"]},
        "label is ['a']; expected text or a whole number",
    ),
    (
        "finetuning",
        {"text": "a text", "label": 0.5},
        {"text": "a text", "label": "half"},
        "label is 'half'; expected a number",
    ),
    (
        "finetuning_tagging",
        {"tokens": ["a", "b"], "tags": ["O", "X"]},
        {"tokens": ["a", "b"], "tags": ["O"]},
        "2 tokens but 1 tags; expected one for each",
    ),
    (
        "finetuning_qa",
        {"question": "q", "context": "the text", "answers": [{"text": "text", "answer_start": 4}]},
        {"question": "q", "context": "the text", "answers": [{"text": "text", "answer_start": 9}]},
        "the answer 'text' is said to begin at character 9, outside the context of 8 characters",
    ),
    (
        "finetuning_choice",
        {"question": "q", "choices": ["a", "b"], "label": 0},
        {"question": "q", "choices": ["a", "b"], "label": 2},
        "label is 2; expected 0 to 1, the number of the right choice",
    ),
    (
        "finetuning_embedding",
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "completion": [{"role": "user", "content": "c"}]},
        "completion is a list; expected text",
    ),
]


@pytest.mark.parametrize(("stage", "good", "bad", "message"), BAD, ids=[each[0] for each in BAD])
def test_a_bad_row_is_told_with_file_and_line(
    stage: str,
    good: dict[str, Any],
    bad: dict[str, Any],
    message: str,
    home: Path,
    cli: Callable[..., Any],
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    other = {**good, "label": "b"} if good.get("label") == "a" else good
    rows = [other if number % 2 else good for number in range(8)]
    file = write_rows("rows.jsonl", [_numbered(row, at) for at, row in enumerate([*rows, bad])])
    overrides = [f"model.source={checkpoints('bert')}", f"data.path={file}", *QUICK]
    strides = ["objective.stride=16", "evaluator.span_qa.stride=16"] if "qa" in stage else []
    ended = cli(f"stage={stage}", *overrides, *strides)
    assert ended.code == 2
    assert f"{file}:9: " in ended.err
    assert message in ended.err
    assert "mend the row or set data.on_error=skip" in ended.err


def _numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row that is like no other one."""
    name = next(name for name in ("text", "question", "prompt", "tokens") if name in row)
    given = row[name]
    return {**row, name: f"{given} {number}" if isinstance(given, str) else [f"w{number}", "b"]}


def test_a_label_that_only_held_out_rows_have_is_told_with_file_and_line(
    home: Path,
    cli: Callable[..., Any],
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    from ontogeny.data.splitting import is_held_out

    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]
    line = next(number for number in range(40) if is_held_out(_stranger(rows[number]), 0.3))
    rows[line] = _stranger(rows[line])
    file = write_rows("rows.jsonl", rows)
    start = ["stage=finetuning", f"model.source={checkpoints('bert')}", f"data.path={file}"]
    ended = cli(*start, "data.validation.share=0.3", *QUICK)
    assert ended.code == 2
    assert f"{file}:{line + 1}: label is 'z', which is none of the classes: a, b" in ended.err
    skipped = cli(
        *start,
        "data.validation.share=0.3",
        "data.on_error=skip",
        "evaluator=[]",
        "trainer.max_steps=1",
        *QUICK,
    )
    assert skipped.code == 0


def _stranger(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "label": "z"}


def test_a_run_reports_its_labels_and_which_weights_are_new(
    home: Path,
    cli: Callable[..., Any],
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    rows = [
        {"text": text, "label": 2 + 3 * (number % 2)} for number, text in enumerate(sentences(24))
    ]
    file = write_rows("rows.jsonl", rows)
    source = f"model.source={checkpoints('bert')}"
    ended = cli(
        "stage=finetuning",
        source,
        "evaluator=[]",
        f"data.path={file}",
        "trainer.max_steps=1",
        *QUICK,
    )
    assert ended.code == 0
    assert "labels: the numbers 2, 5 are names of classes, whose ids are 0 to 1" in ended.out
    assert "only the head is new" in ended.out
    assert "new: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias" in ended.out
    assert "LOAD REPORT" not in ended.err


def test_what_is_measured_stands_in_metrics_json(finetune: Finetune) -> None:
    rows = [{"text": text, "label": text.split()[0]} for text in sentences(24)]
    result = finetune("finetuning", "bert", rows, "trainer.max_steps=1")
    metrics = json.loads((result.folder / "metrics.json").read_text())
    found = metrics["finetuning"]["classification"]
    names = {"accuracy", "macro_f1", "micro_f1", "auroc", "calibration_error"}
    assert names <= found.keys()
    for name in names:
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    counts = [value["value"] for name, value in found.items() if name.startswith("confusion/")]
    assert sum(counts) == 24


@pytest.mark.parametrize(
    ("stage", "head", "message"),
    [
        ("finetuning", "embedding", "has no scores for whole texts"),
        ("finetuning", "token_classification", "has no scores for whole texts"),
        ("finetuning_tagging", "sequence_classification", "has no scores of tags for each token"),
        ("finetuning_qa", "token_classification", "has no scores for where an answer begins"),
        ("finetuning_choice", "sequence_classification", "has no score for each choice"),
        ("finetuning_embedding", "sequence_classification", "has no embeddings"),
    ],
)
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_head_that_does_not_go_with_the_task_is_told(
    evaluated: bool,
    stage: str,
    head: str,
    message: str,
    home: Path,
    cli: Callable[..., Any],
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    good = next(row for each, row, *_ in BAD if each == stage)
    rows = [_numbered(good, number) for number in range(8)]
    if stage == "finetuning":
        rows[0] = {**rows[0], "label": "b"}
    file = write_rows("rows.jsonl", rows)
    overrides = [f"model.source={checkpoints('llama')}", f"data.path={file}", *QUICK]
    overrides += [f"head={head}", f"data.validation.path={file}"]
    overrides += ["objective.stride=16"] if "qa" in stage else []
    if not evaluated:
        overrides += ["evaluator=[]", "preflight=off", "trainer.max_steps=1"]
    elif "qa" in stage:
        overrides += ["evaluator.span_qa.stride=16"]
    ended = cli(f"stage={stage}", *overrides)
    assert ended.code == 2
    assert message in ended.err
    assert "goes with head=" in ended.err


@pytest.mark.parametrize(("stage", "good", "bad", "message"), BAD, ids=[each[0] for each in BAD])
def test_a_bad_row_of_the_held_out_file_is_told_with_file_and_line_before_training(
    stage: str,
    good: dict[str, Any],
    bad: dict[str, Any],
    message: str,
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    other = {**good, "label": "b"} if good.get("label") == "a" else good
    rows = [_numbered(other if number % 2 else good, number) for number in range(8)]
    file, held_out = write_rows("rows.jsonl", rows), write_rows("held_out.jsonl", [good, bad])
    paths = [f"data.path={file}", f"data.validation.path={held_out}"]
    strides = ["objective.stride=16", "evaluator.span_qa.stride=16"] if "qa" in stage else []
    source = f"model.source={checkpoints('bert')}"
    config = compose([f"stage={stage}", source, *paths, *QUICK, *strides])
    with pytest.raises(DataError) as caught:
        run(config, tmp_path / "run")
    assert str(caught.value) == f"{held_out}:2: {message}; mend the row"


def test_a_held_out_question_that_leaves_no_room_is_told_before_training(
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    good = next(row for stage, row, *_ in BAD if stage == "finetuning_qa")
    file = write_rows("rows.jsonl", [_numbered(good, number) for number in range(8)])
    held_out = write_rows("held_out.jsonl", [good, {**good, "question": "why " * 40}])
    paths = [f"data.path={file}", f"data.validation.path={held_out}"]
    strides = ["objective.stride=16", "evaluator.span_qa.stride=16"]
    source = f"model.source={checkpoints('bert')}"
    config = compose(["stage=finetuning_qa", source, *paths, *QUICK, *strides])
    with pytest.raises(DataError, match=r"held_out.jsonl:2: the question has \d+ tokens"):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "row", "message"),
    [
        ("finetuning", {"text": "a", "label": {"of": "a"}}, "label is {'of': 'a'}; expected text"),
        ("finetuning_tagging", {"tokens": ["a"], "tags": "O"}, "tags is 'O'; expected a list"),
    ],
)
def test_labels_that_are_all_of_a_wrong_kind_are_told_with_file_and_line(
    stage: str,
    row: dict[str, Any],
    message: str,
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    file = write_rows("rows.jsonl", [_numbered(row, number) for number in range(8)])
    source = f"model.source={checkpoints('bert')}"
    config = compose([f"stage={stage}", source, f"data.path={file}", *QUICK])
    with pytest.raises(DataError, match=rf"rows.jsonl:\d: {re.escape(message)}"):
        run(config, tmp_path / "run")
