"""Windows of long contexts, the loss of both ends, and the answers that are found."""
# B windows, T tokens

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    LlamaConfig,
    LlamaForQuestionAnswering,
    PreTrainedModel,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.data.corpus import Corpus
from ontogeny.errors import RowError
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.objective import Row
from ontogeny.options import Data, Validation
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.span_qa import SpanQA, SpanQAMetrics
from ontogeny_plugins.span_qa.answers import Answer
from ontogeny_plugins.span_qa.evaluator import SpanQAEvaluator
from ontogeny_plugins.span_qa.objective import AnswerSpans
from ontogeny_plugins.span_qa.windows import Window, null_at_the_end, windows_of

CONTEXT = "The river Rhine flows through Basel, a city, and on to Rotterdam by the sea."
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def row(answer: str | None, question: str = "where?") -> Row:
    answers = [] if answer is None else [{"text": answer, "answer_start": CONTEXT.index(answer)}]
    return {"question": question, "context": CONTEXT, "answers": answers}


def windows(max_length: int, stride: int, tokenizer: Any = None) -> list[Window]:
    return list(windows_of([row("Basel")], tokenizer or byte_tokenizer(), max_length, stride))


def text_of(window: Window, first: int, last: int) -> str:
    return CONTEXT[window.starts_T[first] : window.stops_T[last]]


# --------------------------------------------------------------------------------------- windows


def test_a_context_that_fits_is_one_window_of_question_and_context() -> None:
    (window,) = windows(200, 10)
    assert byte_tokenizer().decode(window.tokens["input_ids"]) == f"where?\n{CONTEXT}"
    assert (window.starts_T >= 0).sum() == len(CONTEXT)


def test_windows_hold_the_whole_context_and_overlap_by_the_stride() -> None:
    found = windows(40, 10)
    held = [set(window.starts_T[window.starts_T >= 0].tolist()) for window in found]
    assert set().union(*held) == set(range(len(CONTEXT)))
    assert all(len(left & right) == 10 for left, right in pairwise(held))
    assert max(len(window.tokens["input_ids"]) for window in found) == 40


def test_a_span_leads_back_to_its_answer_in_each_window_that_holds_it() -> None:
    answer = Answer("Basel", CONTEXT.index("Basel"))
    spans = [(window, window.span(answer)) for window in windows(40, 10)]
    assert any(span for _, span in spans)
    assert any(span is None for _, span in spans)
    for window, span in spans:
        assert span is None or text_of(window, *span) == "Basel"


def test_a_window_that_holds_a_part_of_the_answer_holds_no_answer() -> None:
    (first, *_) = windows(40, 10)
    held = int((first.starts_T >= 0).sum())
    assert first.span(Answer(CONTEXT[held - 3 : held + 3], held - 3)) is None


def test_a_token_that_begins_with_the_space_before_the_answer_is_its_first() -> None:
    window = Window(0, {"input_ids": np.arange(3)}, np.array([0, 4, 10]), np.array([4, 10, 16]))
    assert window.span(Answer("Rhine", 5)) == (1, 1)


def test_a_question_that_leaves_no_room_is_named() -> None:
    rows = [row("Basel"), row("Basel", "long " * 10)]
    with pytest.raises(RowError, match="the question has 50 tokens, which leaves 10") as error:
        list(windows_of(rows, byte_tokenizer(), 60, 16))
    assert error.value.index == 1


def test_a_stride_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stride is 64, but windows have data.max_length=64"):
        windows(64, 64)


def test_segments_are_kept_where_the_tokenizer_gives_them() -> None:
    tokenizer = cast("Any", byte_tokenizer())
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    (window,) = windows(200, 10, tokenizer)
    assert window.tokens["token_type_ids"].sum() == len(CONTEXT)


# ------------------------------------------------------------------------------------- objective


def surveyed(
    rows: list[Row], folder: Path, max_length: int = 48, stride: int = 8
) -> tuple[AnswerSpans, dict[str, object], list[str]]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    data = Data(path=str(file), max_length=max_length, validation=Validation(share=0.0))
    lines: list[str] = []
    objective = AnswerSpans(SpanQA(stride=stride))
    corpus = Corpus(data, objective.columns, Store(folder / "store"), lines.append)
    return objective, objective.survey(corpus), lines


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(**SIZES))
    model.eval()
    return cast("PreTrainedModel", model)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForQuestionAnswering(LlamaConfig(**SIZES))
    model.eval()
    return cast("PreTrainedModel", model)


def test_the_survey_says_whether_there_may_be_no_answer(tmp_path: Path) -> None:
    _, facts, lines = surveyed([row("Basel"), row("Rhine"), row(None)], tmp_path)
    assert facts == {"unanswerable": True, "max_length": 48}
    assert lines == ["questions: 2 with an answer, 1 without one"]
    _, facts, _ = surveyed([row("Basel")], tmp_path)
    assert facts["unanswerable"] is False


@pytest.mark.parametrize("build", [bert, llama])
def test_the_loss_is_the_mean_of_both_ends_window_by_window(build: Any, tmp_path: Path) -> None:
    rows = [row("Basel"), row(None, "who is it that lives there?")]
    objective, _, _ = surveyed(rows, tmp_path)
    model = build()
    examples = list(objective.prepare(rows, byte_tokenizer()))
    with torch.no_grad():
        loss = objective.loss(model, objective.collate(examples))
    expected = 0.0
    for example in examples:
        length = len(example["input_ids"])
        with torch.no_grad():
            output = model(input_ids=torch.from_numpy(example["input_ids"]).long()[None])
        null = length - 1 if null_at_the_end(model) else 0
        for logits_1T, name in ((output.start_logits, "first"), (output.end_logits, "last")):
            place = int(example[name]) if example[name] >= 0 else null
            expected -= float(logits_1T[0].log_softmax(-1)[place]) / 2
    assert sum(example["first"] >= 0 for example in examples) in range(1, len(examples))
    assert float(loss.total) == pytest.approx(expected, rel=1e-4)
    assert float(loss.weight) == len(examples)


def test_no_answer_stands_where_a_decoder_has_read_all() -> None:
    assert null_at_the_end(llama())
    assert not null_at_the_end(bert())


def test_an_answer_outside_its_context_is_named(tmp_path: Path) -> None:
    objective, _, _ = surveyed([row("Basel")], tmp_path)
    wrong = {**row("Basel"), "answers": [{"text": "Basel", "answer_start": 3}]}
    with pytest.raises(RowError, match="the answer 'Basel' is said to begin at character 3") as e:
        list(objective.prepare([row("Basel"), wrong], byte_tokenizer()))
    assert e.value.index == 1


def test_a_stride_is_not_negative() -> None:
    with pytest.raises(ConfigError, match=r"objective.stride is -1; expected 0 or more"):
        SpanQA(stride=-1)


# ------------------------------------------------------------------------------------- evaluator


class Reader(nn.Module):
    """Finds a word: one logit at its first byte, one at its last, and one for no answer."""

    def __init__(self, word: str, null: float = 0.0, score: float = 5.0) -> None:
        super().__init__()
        self.word = torch.tensor(byte_tokenizer()(word)["input_ids"])
        self.null, self.score = nn.Parameter(torch.tensor(null)), score
        self.config = BertConfig(**SIZES)

    def forward(self, input_ids: Tensor, **_: object) -> QuestionAnsweringModelOutput:
        start_BT = torch.zeros(input_ids.shape)
        end_BT = torch.zeros(input_ids.shape)
        size = len(self.word)
        for row_T, starts_T, ends_T in zip(input_ids, start_BT, end_BT, strict=True):
            for place in range(len(row_T) - size + 1):
                if torch.equal(row_T[place : place + size], self.word):
                    starts_T[place] = ends_T[place + size - 1] = self.score
        start_BT[:, 0] = end_BT[:, 0] = self.null
        return QuestionAnsweringModelOutput(start_logits=start_BT, end_logits=end_BT)


def evaluate(model: nn.Module, rows: list[Row], length: int = 48, **options: Any) -> Metrics:
    bundle = Bundle(cast("Any", model), byte_tokenizer(), cast("Any", None))
    config = SpanQAMetrics(**{"stride": 8, "resamples": 10, "batch_size": 2, **options})
    evaluator = SpanQAEvaluator(config)
    data = EvaluationData({"data": rows}, Data(max_length=length))
    evaluator.check(bundle, data)
    with torch.no_grad():
        return evaluator.evaluate(bundle, data)


@pytest.mark.parametrize("length", [200, 48, 30])
def test_the_best_span_of_all_windows_is_the_answer(length: int) -> None:
    found = evaluate(Reader("Rotterdam"), [row("Rotterdam"), row("Basel")], length)
    assert found["exact_match"].value == 0.5
    assert found["f1"].value == 0.5


def test_a_partly_right_answer_has_its_share_of_words() -> None:
    found = evaluate(Reader("river Rhine"), [row("Rhine")])
    assert found["exact_match"].value == 0.0
    assert found["f1"].value == pytest.approx(2 / 3)


def test_no_answer_is_said_where_it_scores_higher_in_every_window() -> None:
    rows = [row("Rotterdam"), row(None)]
    sure, unsure = evaluate(Reader("Rotterdam"), rows), evaluate(Reader("Rotterdam", 6.0), rows)
    assert [sure[f"exact_match{kind}"].value for kind in ("/answer", "/no_answer")] == [1, 0]
    assert [unsure[f"exact_match{kind}"].value for kind in ("/answer", "/no_answer")] == [0, 1]


def test_the_threshold_shifts_when_no_answer_is_said() -> None:
    found = evaluate(Reader("Rotterdam", 6.0), [row("Rotterdam")], null_threshold=3.0)
    assert found["exact_match"].value == 1.0  # 12 - 10 is within it


def test_a_model_that_never_saw_a_question_without_answer_always_answers() -> None:
    model = Reader("Rotterdam", 6.0)
    vars(model.config)["unanswerable"] = False
    assert evaluate(model, [row("Rotterdam")])["exact_match"].value == 1.0


def test_an_answer_is_not_longer_than_allowed() -> None:
    found = evaluate(Reader("Rotterdam"), [row("Rotterdam")], longest_answer=4)
    assert found["exact_match"].value == 0.0


def test_sources_are_measured_together_and_each_alone() -> None:
    bundle = Bundle(cast("Any", Reader("Basel")), byte_tokenizer(), cast("Any", None))
    data = EvaluationData({"a": [row("Basel")], "b": [row("Rhine")]}, Data(max_length=48))
    with torch.no_grad():
        found = SpanQAEvaluator(SpanQAMetrics(stride=8, resamples=5)).evaluate(bundle, data)
    names = ("exact_match", "exact_match/a", "exact_match/b")
    assert [found[name].value for name in names] == [0.5, 1.0, 0.0]


def test_a_held_out_row_that_does_not_fit_is_named() -> None:
    wrong = {**row("Basel"), "answers": [{"text": "Basel", "answer_start": 3}]}
    with pytest.raises(DataError, match="row 2 of the held-out rows of data: the answer 'Basel'"):
        evaluate(Reader("Basel"), [row("Basel"), wrong])


def test_without_rows_there_is_nothing_to_measure() -> None:
    with pytest.raises(DataError, match="no held-out rows to evaluate on"):
        evaluate(Reader("Basel"), [])
