"""From files to rows of training tokens: nothing lost, nothing twice, nothing held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from torch import nn
from transformers import PreTrainedTokenizerBase

from ontogeny.data.collation import collate_tokens
from ontogeny.data.pipeline import (
    PreparedSource,
    SourceReader,
    TrainingRows,
    digest_source,
    prepare_source,
    sources_of,
    validation_rows,
)
from ontogeny.errors import ConfigError, DataError
from ontogeny.objective import Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.options import Data, Source, Validation, column_names
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer


class Bytes(Objective):
    """Every byte of a text is a token that predicts itself."""

    packs: ClassVar[bool] = True
    long_examples: ClassVar[LongExamples] = "split"

    def __init__(self) -> None:
        self.calls = 0

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        del tokenizer
        self.calls += 1
        for row in rows:
            ids = np.frombuffer(str(row["text"]).encode(), np.uint8).astype(np.int32)
            yield {"input_ids": ids, "labels": ids}

    def collate(self, examples: Sequence[Example]) -> Batch:
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        raise NotImplementedError


class Cut(Bytes):
    """Takes the beginning of what is too long."""

    long_examples: ClassVar[LongExamples] = "truncate"


class Ends(Cut):
    """Labels what stands behind the first colon, or everything where there is none."""

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            first = bytes(example["input_ids"].tolist()).find(b":") + 1
            labels = np.where(np.arange(len(example["labels"])) < first, -100, example["labels"])
            yield {"input_ids": example["input_ids"], "labels": labels}


class Pairs(Bytes):
    """Examples without input_ids, as preference pairs are."""

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            yield {"chosen": example["input_ids"], "rejected": example["input_ids"][:2]}


def texts(number: int, prefix: str = "row") -> list[str]:
    return [f"{prefix} {index} " + "x" * (index * 7 % 40) for index in range(number)]


def write(path: Path, rows: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return path


def prepare(
    data: Data, objective: Objective, store: Store, options: object = None
) -> list[PreparedSource]:
    return [
        prepare_source(
            SourceReader(name, source.path, data, objective.columns),
            objective,
            options,
            byte_tokenizer(),
            "tokenizer",
            store,
            None,
        )
        for name, source in sources_of(data).items()
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def trained(prepared: PreparedSource) -> list[str]:
    return [bytes(example["input_ids"].tolist()).decode() for example in prepared.examples]


def held_out(prepared: PreparedSource) -> list[str]:
    return [json.loads(line)["text"] for line in prepared.held_out.read_text().splitlines()]


# ------------------------------------------------------------------------------------ held out


def test_no_row_that_is_held_out_is_trained_on_and_none_is_lost(
    tmp_path: Path, store: Store
) -> None:
    rows = texts(300)
    data = Data(path=str(write(tmp_path / "a.jsonl", rows)), validation=Validation(share=0.2))
    (source,) = prepare(data, Bytes(), store)
    assert not set(trained(source)) & set(held_out(source))
    assert sorted(trained(source) + held_out(source)) == sorted(rows)
    assert 30 < len(held_out(source)) < 90  # 60 expected, 4 standard deviations are 28
    assert source.facts == {
        "rows": len(trained(source)),
        "held_out": len(held_out(source)),
        "rejected": 0,
        "empty": 0,
    }


def test_the_same_rows_are_held_out_in_any_order_and_any_file(tmp_path: Path, store: Store) -> None:
    rows = texts(200)
    forth = Data(path=str(write(tmp_path / "a.jsonl", rows)))
    back = Data(path=str(write(tmp_path / "b.jsonl", [*rows[::-1], *texts(50, "other")])))
    (first,), (second,) = prepare(forth, Bytes(), store), prepare(back, Bytes(), store)
    assert held_out(first)
    assert set(held_out(first)) == set(held_out(second)) & set(rows)


def test_a_row_that_stands_twice_is_held_out_twice(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(100) * 2)))
    (source,) = prepare(data, Bytes(), store)
    assert set(Counter(held_out(source)).values()) == {2}
    assert not set(trained(source)) & set(held_out(source))


def test_where_chance_holds_out_nothing_one_row_is_held_out(tmp_path: Path, store: Store) -> None:
    rows = texts(5)
    data = Data(path=str(write(tmp_path / "a.jsonl", rows)), validation=Validation(share=1e-6))
    (source,) = prepare(data, Bytes(), store)
    assert len(held_out(source)) == 1
    assert len(trained(source)) == 4
    reader = SourceReader("data", str(data.path), data, [["text"]])
    kept = [
        [record.row["text"] for record in records()]
        for records in (reader.training_records, reader.held_out_records)
    ]
    assert kept == [trained(source), held_out(source)]  # also for what reads before the training


def test_a_single_row_cannot_be_held_out(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(1) * 3)))
    with pytest.raises(DataError, match=r"a.jsonl has a single row, so none can be held out: set"):
        prepare(data, Bytes(), store)


def test_with_a_file_of_its_own_nothing_is_held_out(tmp_path: Path, store: Store) -> None:
    rows = texts(50)
    validation = Validation(path=str(write(tmp_path / "v.jsonl", texts(4, "held"))))
    data = Data(path=str(write(tmp_path / "a.jsonl", rows)), validation=validation)
    (source,) = prepare(data, Bytes(), store)
    assert trained(source) == rows
    found = validation_rows(data, [source], Bytes.columns)
    assert found == {"validation": [{"text": text} for text in texts(4, "held")]}


def test_the_share_zero_holds_out_nothing(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(50))), validation=Validation(share=0.0))
    (source,) = prepare(data, Bytes(), store)
    assert trained(source) == texts(50)
    assert validation_rows(data, [source], Bytes.columns) == {}


def test_held_out_rows_are_given_by_source_and_up_to_the_limit(
    tmp_path: Path, store: Store
) -> None:
    validation = Validation(share=0.5, limit=3)
    paths = {name: str(write(tmp_path / f"{name}.jsonl", texts(40, name))) for name in "ab"}
    data = Data(sources={name: Source(path) for name, path in paths.items()}, validation=validation)
    sources = prepare(data, Bytes(), store)
    rows = validation_rows(data, sources, Bytes.columns)
    assert {name: len(part) for name, part in rows.items()} == {"a": 3, "b": 3}
    assert [row["text"] for row in rows["b"]] == held_out(sources[1])[:3]


def test_a_tokenizer_is_trained_on_the_rows_that_are_trained_on(
    tmp_path: Path, store: Store
) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(200))))
    (source,) = prepare(data, Bytes(), store)
    reader = SourceReader("data", str(data.path), data, Bytes.columns)
    assert [record.row["text"] for record in reader.training_records()] == trained(source)


# ------------------------------------------------------------------------------------ the cache


def test_a_source_is_tokenised_once(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(30))))
    objective = Bytes()
    (first,) = prepare(data, objective, store)
    calls = objective.calls
    (second,) = prepare(data, objective, store)
    assert objective.calls == calls
    assert (first.folder, first.facts) == (second.folder, second.facts)


@pytest.mark.parametrize(
    "change",
    [
        Data(validation=Validation(share=0.5)),
        Data(text_column="body"),
        Data(on_error="skip"),
        Data(text_unit="line"),
    ],
    ids=["share", "column", "on_error", "text_unit"],
)
def test_what_decides_the_rows_decides_the_entry(
    change: Data, tmp_path: Path, store: Store
) -> None:
    rows = [{"text": text, "body": text[::-1]} for text in texts(30)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    change.path = str(path)
    (plain,), (other,) = (
        prepare(Data(path=str(path)), Bytes(), store),
        prepare(change, Bytes(), store),
    )
    assert plain.folder != other.folder


def test_other_text_and_other_options_of_the_objective_are_other_entries(
    tmp_path: Path, store: Store
) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(30))))
    (first,) = prepare(data, Bytes(), store)
    (second,) = prepare(data, Bytes(), store, options={"end": False})
    write(tmp_path / "a.jsonl", texts(31))
    (third,) = prepare(data, Bytes(), store)
    assert len({first.folder, second.folder, third.folder}) == 3


def test_rows_that_are_left_out_are_listed_with_their_place(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "a.jsonl", texts(20))
    path.write_text(path.read_text() + "torn\n")
    (source,) = prepare(Data(path=str(path), on_error="skip"), Bytes(), store)
    (line,) = (source.folder / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == f"{path}:21"
    assert source.facts["rejected"] == 1


# --------------------------------------------------------------------------------- rows of tokens


def pieces_of(rows: TrainingRows) -> list[tuple[int, ...]]:
    """Return the tokens of every document part of one pass, without padding."""
    pieces = []
    for position in range(len(rows)):
        row = rows[position]
        documents = row.get("document_ids", np.zeros(len(row["input_ids"]), np.int32))
        for number in np.unique(documents):
            part = row["input_ids"][(documents == number) & (row["labels"] != -100)]
            if len(part):
                pieces.append(tuple(part.tolist()))
    return pieces


def whole(rows: Iterable[str], length: int) -> list[tuple[int, ...]]:
    """Cut texts by hand."""
    return [
        tuple(text.encode()[start : start + length])
        for text in rows
        for start in range(0, len(text.encode()), length)
    ]


@pytest.mark.parametrize("packing", [True, False])
def test_no_token_of_a_long_document_is_lost_or_comes_twice(
    packing: bool, tmp_path: Path, store: Store
) -> None:
    rows = texts(40)
    path = str(write(tmp_path / "a.jsonl", rows))
    data = Data(path=path, max_length=16, packing=packing, validation=Validation(share=0.0))
    training = TrainingRows(prepare(data, Bytes(), store), Bytes(), data, seed=0)
    assert sorted(pieces_of(training)) == sorted(whole(rows, 16))
    assert training.mixture.tokens == sum(len(text.encode()) for text in rows)


def test_packed_rows_are_all_full_length_and_mostly_full(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(200))), max_length=64)
    training = TrainingRows(prepare(data, Bytes(), store), Bytes(), data, seed=0)
    rows = [training[position] for position in range(len(training))]
    assert {len(row["input_ids"]) for row in rows} == {64}
    filled = sum(int((row["labels"] != -100).sum()) for row in rows)
    assert filled / (64 * len(rows)) > 0.9


def test_the_second_pass_has_the_same_rows_in_another_order(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(100))), max_length=32)
    training = TrainingRows(prepare(data, Bytes(), store), Bytes(), data, seed=0)
    count = len(training)

    def ids(start: int) -> list[tuple[int, ...]]:
        return [tuple(training[start + at]["input_ids"].tolist()) for at in range(count)]

    assert ids(0) != ids(count)
    assert sorted(ids(0)) == sorted(ids(count))


def test_the_order_is_a_function_of_the_seed(tmp_path: Path, store: Store) -> None:
    data = Data(path=str(write(tmp_path / "a.jsonl", texts(100))), max_length=32)
    sources = prepare(data, Bytes(), store)

    def order(seed: int) -> list[tuple[int, ...]]:
        rows = TrainingRows(sources, Bytes(), data, seed)
        return [tuple(rows[position]["input_ids"].tolist()) for position in range(20)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_examples_that_cannot_be_split_are_cut_and_counted(tmp_path: Path, store: Store) -> None:
    rows = ["short", "exactly eight"[:8], "much longer than eight"]
    path = str(write(tmp_path / "a.jsonl", rows))
    data = Data(path=path, max_length=8, packing=False, validation=Validation(share=0.0))
    training = TrainingRows(prepare(data, Cut(), store), Cut(), data, seed=0)
    assert training.truncated == {"data": 1}
    assert sorted(pieces_of(training)) == sorted(tuple(text.encode()[:8]) for text in rows)


def test_examples_that_lose_all_their_labels_are_left_out_and_counted(
    tmp_path: Path, store: Store
) -> None:
    rows = ["short", "a long prompt without: end", "as long, but: in the middle of it"]
    path = str(write(tmp_path / "a.jsonl", rows))
    data = Data(path=path, max_length=16, packing=False, validation=Validation(share=0.0))
    training = TrainingRows(prepare(data, Ends(), store), Ends(), data, seed=0)
    assert (training.truncated, training.unlabelled) == ({"data": 1}, {"data": 1})
    found = {bytes(training[position]["input_ids"].tolist()).decode() for position in range(2)}
    assert len(training) == 2
    assert found == {"short", "as long, but: in"}


def test_a_length_that_leaves_no_label_at_all_is_refused(tmp_path: Path, store: Store) -> None:
    path = str(write(tmp_path / "a.jsonl", ["a long prompt without: end"] * 2))
    data = Data(path=path, max_length=16, validation=Validation(share=0.0))
    sources = prepare(data, Ends(), store)
    with pytest.raises(DataError, match=r"no example of data has a label .* raise data.max_length"):
        TrainingRows(sources, Ends(), data, seed=0)


def test_examples_without_tokens_of_their_own_are_never_cut_or_packed(
    tmp_path: Path, store: Store
) -> None:
    path = str(write(tmp_path / "a.jsonl", texts(10)))
    data = Data(path=path, max_length=8, validation=Validation(share=0.0))
    training = TrainingRows(prepare(data, Pairs(), store), Pairs(), data, seed=0)
    assert len(training) == 10
    longest = max(len(training[position]["chosen"]) for position in range(10))
    assert longest == max(len(text) for text in texts(10))


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.5, 0.5), (1.0, 3.0)])
def test_a_mixture_has_the_tokens_that_its_weights_ask_for(
    weights: tuple[float, float], tmp_path: Path, store: Store
) -> None:
    # Sources of unlike sizes, with documents of unlike lengths: shares of rows would be far off.
    long = write(tmp_path / "long.jsonl", (f"long {number} " + "y" * 90 for number in range(300)))
    short = write(tmp_path / "short.jsonl", (f"s {number}" for number in range(900)))
    named = zip(("long", "short"), (long, short), weights, strict=True)
    data = Data(
        sources={name: Source(str(path), weight) for name, path, weight in named},
        max_length=64,
        validation=Validation(share=0.0),
    )
    training = TrainingRows(prepare(data, Bytes(), store), Bytes(), data, seed=0)
    tokens = Counter[str]()
    positions = 1500
    for position in range(positions):
        row = training[position]
        real = row["labels"] != -100
        # Only long documents have a letter y; the beginning of one says what it is.
        first = "long" if ord("y") in row["input_ids"] or ord("l") in row["input_ids"] else "short"
        tokens[first] += int(real.sum())
    share = tokens["long"] / tokens.total()
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.02)
    assert training.mixture.shares_after(positions)["long"] == pytest.approx(share, abs=0.01)


def test_without_weights_every_row_of_every_source_comes_once(tmp_path: Path, store: Store) -> None:
    paths = {name: write(tmp_path / f"{name}.jsonl", texts(30, name)) for name in ("a", "bb")}
    data = Data(
        sources={name: Source(str(path)) for name, path in paths.items()},
        max_length=16,
        validation=Validation(share=0.0),
    )
    training = TrainingRows(prepare(data, Bytes(), store), Bytes(), data, seed=0)
    expected = whole([*texts(30, "a"), *texts(30, "bb")], 16)
    assert sorted(pieces_of(training)) == sorted(expected)


# ------------------------------------------------------------------------------------ the options


def test_a_path_is_short_for_one_source() -> None:
    assert sources_of(Data(path="a.txt")) == {"data": Source("a.txt")}


def test_the_example_is_taken_only_as_long_as_nothing_else_is_named() -> None:
    assert sources_of(Data(example="e.txt")) == {"data": Source("e.txt")}
    assert sources_of(Data(path="a.txt", example="e.txt")) == {"data": Source("a.txt")}
    sources = {"one": Source("b.txt", 1.0)}
    assert sources_of(Data(sources=sources, example="e.txt")) == sources


def test_an_empty_path_is_not_replaced_by_the_example() -> None:
    assert sources_of(Data(path="", example="e.txt")) == {"data": Source("")}


def test_no_data_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no data: set data.path"):
        sources_of(Data())


def test_columns_have_the_names_that_the_user_gives_them() -> None:
    names = column_names(Data(text_column="body", label_column="class"))
    assert names["text"] == "body"
    assert names["label"] == "class"
    assert names["prompt"] == "prompt"


def test_the_digest_of_a_source_is_that_of_its_content(tmp_path: Path) -> None:
    first, same = write(tmp_path / "a.jsonl", texts(3)), write(tmp_path / "b.jsonl", texts(3))
    other = write(tmp_path / "c.jsonl", texts(4))
    digests = [digest_source(str(path), None) for path in (first, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert digest_source("someone/some-data", None) != digest_source("someone/other-data", None)


class Whole(Bytes):
    """Leaves out what is too long."""

    long_examples: ClassVar[LongExamples] = "leave_out"


def test_examples_that_must_stay_whole_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    lengths = [3, 9, 5, 8, 20]
    file.write_text("".join(json.dumps({"text": "x" * length}) + "\n" for length in lengths))
    store = Store(tmp_path / "store")
    data = Data(path=str(file), max_length=8, validation=Validation(share=0.0))
    rows = TrainingRows(prepare(data, Whole(), store), Whole(), data, seed=0)
    assert rows.too_long == {"data": 2}
    assert rows.mixture.tokens == 3 + 5 + 8
    short = Data(path=str(file), max_length=2, validation=Validation(share=0.0))
    told = r"no example of data fits into 2 tokens, the shortest has 3"
    with pytest.raises(DataError, match=told):
        TrainingRows(prepare(short, Whole(), store), Whole(), short, seed=0)
