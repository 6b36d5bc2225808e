"""Words and their tokens, the loss of their tags, and how well they are found."""
# B rows, T tokens, C tags

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.attention import model_inputs
from ontogeny.data.corpus import Corpus
from ontogeny.errors import RowError
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.objective import Row
from ontogeny.options import Data, Validation
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.tagging import Tagging, TaggingMetrics
from ontogeny_plugins.tagging.alignment import aligned, first_tokens
from ontogeny_plugins.tagging.evaluator import TaggingEvaluator
from ontogeny_plugins.tagging.objective import WordTagging

NAMES = ["B-A", "B-B", "I-A", "O"]
ROWS: list[Row] = [
    {"tokens": ["Ann", "lives", "in", "Rome"], "tags": ["B-A", "O", "O", "B-B"]},
    {"tokens": ["New", "York", "is", "big"], "tags": ["B-A", "I-A", "O", "O"]},
    {"tokens": ["ok"], "tags": ["O"]},
]


def wordpiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer that cuts words into pieces and frames texts, as BERT's does."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "an", "##n", "live", "##s", "in", "rome", "new"]
    backend = Tokenizer(
        models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def model(names: list[str] | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    labels = dict(enumerate(names or NAMES))
    config = BertConfig(**sizes, vocab_size=259, num_attention_heads=2, id2label=labels)
    built = BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    built.eval()
    return cast("PreTrainedModel", built)


def surveyed(
    rows: list[Row], folder: Path, **options: Any
) -> tuple[WordTagging, dict[str, object], list[str]]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(file), validation=Validation(share=0.0))
    lines: list[str] = []
    objective = WordTagging(Tagging(**options))
    corpus = Corpus(data, objective.columns, Store(folder / "store"), lines.append)
    return objective, objective.survey(corpus), lines


# ------------------------------------------------------------------------------------- alignment


def test_pieces_belong_to_their_words_and_special_tokens_to_none() -> None:
    ((ids_T, word_T),) = aligned([["Ann", "lives", "in", "Rome"]], " ", wordpiece())
    assert ids_T.tolist() == [2, 4, 5, 6, 7, 8, 9, 3]
    assert word_T.tolist() == [-1, 0, 0, 1, 1, 2, 3, -1]
    assert first_tokens(word_T).tolist() == [False, True, False, True, False, True, True, False]


def test_a_space_that_is_part_of_a_token_is_of_the_word_after_it() -> None:
    tokenizer = byte_tokenizer()
    sentences = [["ab", "c"], ["é", "日本"]]
    for words, (ids_T, word_T) in zip(sentences, aligned(sentences, " ", tokenizer), strict=True):
        assert tokenizer.decode(ids_T) == " ".join(words)
        for number, word in enumerate(words):
            assert (word_T == number).sum() == len(word.encode())  # the space is of no word


def test_languages_without_spaces_are_joined_without_any() -> None:
    ((ids_T, word_T),) = aligned([["日", "本"]], "", byte_tokenizer())
    assert byte_tokenizer().decode(ids_T) == "日本"
    assert word_T.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_word_that_the_tokenizer_drops_has_no_token() -> None:
    ((_, word_T),) = aligned([["in", "\u00ad", "rome"]], " ", wordpiece())
    assert set(word_T.tolist()) == {-1, 0, 2}


def test_a_tokenizer_that_does_not_tell_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="a Slow, does not tell where its tokens stand"):
        list(aligned([["a"]], " ", cast("Any", Slow())))


# ------------------------------------------------------------------------------------- objective


def test_the_survey_tells_the_head_what_tags_there_are(tmp_path: Path) -> None:
    _, facts, lines = surveyed(ROWS, tmp_path)
    assert facts == {"labels": NAMES, "word_separator": " "}
    assert lines == ["tags: 4: B-A 2, B-B 1, I-A 1, O 5"]


def test_only_the_first_piece_of_a_word_is_labelled(tmp_path: Path) -> None:
    objective, _, _ = surveyed(ROWS, tmp_path)
    example = next(iter(objective.prepare(ROWS, wordpiece())))
    assert example["labels"].tolist() == [-100, 0, -100, 3, -100, 3, 1, -100]


def test_all_pieces_are_labelled_where_that_is_asked_for(tmp_path: Path) -> None:
    objective, _, _ = surveyed(ROWS, tmp_path, pieces="all")
    example = next(iter(objective.prepare(ROWS, wordpiece())))
    assert example["labels"].tolist() == [-100, 0, 2, 3, 3, 3, 1, -100]


def test_the_loss_is_torchs_weighted_mean_over_labelled_tokens(tmp_path: Path) -> None:
    objective, _, _ = surveyed(ROWS, tmp_path, class_weights={"O": 0.25, "B-B": 4.0})
    batch = objective.collate(list(objective.prepare(ROWS, byte_tokenizer())))
    built = model()
    with torch.no_grad():
        loss = objective.loss(built, batch)
        logits_BTC = built(**cast("Any", model_inputs(built, batch))).logits
    mean = nn.CrossEntropyLoss(torch.tensor([1.0, 4.0, 1.0, 0.25]))
    expected = mean(logits_BTC.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(loss.total / loss.weight, expected)


def test_numbers_get_the_names_that_are_given(tmp_path: Path) -> None:
    rows: list[Row] = [{"tokens": ["a", "b"], "tags": [0, 2]}, {"tokens": ["c"], "tags": [1]}]
    objective, facts, _ = surveyed(rows, tmp_path, tags=["O", "B-X", "I-X"])
    assert facts["labels"] == ["O", "B-X", "I-X"]
    assert [example["labels"].max() for example in objective.prepare(rows, wordpiece())] == [2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["O"]}, "4 tokens but 1 tags; expected one for each"),
        ({"tags": ["O", "O", "O", "B-NEW"]}, "tag is 'B-NEW', which is none of the tags"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    objective, _, _ = surveyed(ROWS, tmp_path)
    with pytest.raises(RowError, match=message) as error:
        list(objective.prepare([ROWS[2], {**ROWS[0], **change}], wordpiece()))
    assert error.value.index == 1


def test_one_tag_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all words have the tag 'O' alone; tagging needs two"):
        surveyed([ROWS[2]], tmp_path)


def test_a_weight_for_no_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective.class_weights.X names no tag; known: B-A"):
        surveyed(ROWS, tmp_path, class_weights={"X": 2.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pieces": "last"}, "objective.pieces is 'last'; expected one of first, all"),
        ({"word_separator": "-"}, "objective.word_separator is '-'; expected spaces, or nothing"),
        ({"class_weights": {"O": 0}}, "objective.class_weights.O is 0; expected more than 0"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tagging(**changes)


# ------------------------------------------------------------------------------------- evaluator


def evaluate(
    built: PreTrainedModel, rows: list[Row], length: int = 64, batch_size: int = 2
) -> Metrics:
    bundle = Bundle(built, byte_tokenizer(), cast("Any", None))
    evaluator = TaggingEvaluator(TaggingMetrics(batch_size=batch_size, resamples=10))
    data = EvaluationData({"data": rows}, Data(max_length=length))
    evaluator.check(bundle, data)
    with torch.no_grad():
        return evaluator.evaluate(bundle, data)


def tags_by_hand(built: PreTrainedModel, row: Row, length: int = 64) -> list[str]:
    """Return the tag of the first byte of each word, read in pieces of `length` bytes."""
    words = cast("list[str]", row["tokens"])
    ids = byte_tokenizer()(" ".join(words))["input_ids"]
    found: list[int] = []
    for begin in range(0, len(ids), length):
        with torch.no_grad():
            found += (
                built(input_ids=torch.tensor([ids[begin : begin + length]]))
                .logits[0]
                .argmax(-1)
                .tolist()
            )
    starts = np.cumsum([0, *(len(word.encode()) + 1 for word in words)])[:-1]
    names = cast("dict[int, str]", built.config.id2label)
    return [names[found[start]] for start in starts]


@pytest.mark.parametrize("length", [64, 5])
def test_predictions_are_those_of_each_text_alone_and_long_ones_are_split(length: int) -> None:
    built = model()
    said = [tags_by_hand(built, row, length) for row in ROWS]
    rows: list[Row] = [{**row, "tags": tags} for row, tags in zip(ROWS, said, strict=True)]
    found = evaluate(built, rows, length)
    assert found["accuracy"].value == 1.0
    assert len({tag for tags in said for tag in tags}) > 1


def scores_by_hand(true: list[list[str]], said: list[list[str]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of spans that begin with B-, which these tags all do."""

    def spans(rows: list[list[str]]) -> set[tuple[int, int, str]]:
        return {
            (number, place, tag)
            for number, row in enumerate(rows)
            for place, tag in enumerate(row)
            if tag != "O"
        }

    both = len(spans(true) & spans(said))
    precision, recall = both / len(spans(said)), both / len(spans(true))
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_spans_are_counted_over_all_rows() -> None:
    names = ["B-A", "B-B", "O"]
    built = model(names)
    said = [tags_by_hand(built, row) for row in ROWS]
    true = [list(tags) for tags in said]
    true[0] = ["B-A", "B-B", "O", "B-A"]
    rows = [{**row, "tags": tags} for row, tags in zip(ROWS, true, strict=True)]
    found = evaluate(built, rows)
    precision, recall, f1 = scores_by_hand(true, said)
    assert found["span_precision"].value == pytest.approx(precision)
    assert found["span_recall"].value == pytest.approx(recall)
    assert found["span_f1"].value == pytest.approx(f1)
    assert {"f1/A", "f1/B"} <= found.keys()
    assert found["macro_f1"].value == pytest.approx((found["f1/A"].value + found["f1/B"].value) / 2)


def test_tags_that_mark_no_spans_are_counted_word_by_word() -> None:
    built = model(["ADJ", "NOUN", "VERB"])
    rows = [{**row, "tags": tags_by_hand(built, row)} for row in ROWS]
    rows[0]["tags"] = [
        "ADJ" if tag != "ADJ" else "NOUN" for tag in cast("list[str]", rows[0]["tags"])
    ]
    found = evaluate(built, rows)
    assert found["accuracy"].value == pytest.approx(5 / 9)
    assert not [name for name in found if name.startswith("span_")]


def test_a_word_without_token_is_said_to_be_outside() -> None:
    built = model()
    built.config.vocab_size = 11
    bundle = Bundle(built, wordpiece(), cast("Any", None))
    rows: list[Row] = [{"tokens": ["\u00ad"], "tags": ["O"]}]
    data = EvaluationData({"data": rows}, Data(max_length=64))
    with torch.no_grad():
        found = TaggingEvaluator(TaggingMetrics(resamples=2)).evaluate(bundle, data)
    assert found["accuracy"].value == 1.0


def test_the_numbers_are_those_of_seqeval_where_it_is_installed() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    built = model()
    said = [tags_by_hand(built, row) for row in ROWS]
    true = [cast("list[str]", row["tags"]) for row in ROWS]
    found = evaluate(built, list(ROWS))
    assert found["span_f1"].value == pytest.approx(metrics.f1_score(true, said, zero_division=0))
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(true, said))


def test_a_held_out_row_that_does_not_fit_is_named() -> None:
    rows = [ROWS[0], {"tokens": ["a"], "tags": ["B-NEW"]}]
    with pytest.raises(DataError, match="row 2 of the held-out rows of data: tag is 'B-NEW'"):
        evaluate(model(), rows)


def test_without_rows_there_is_nothing_to_measure() -> None:
    with pytest.raises(DataError, match="no held-out rows to evaluate on"):
        evaluate(model(), [])
