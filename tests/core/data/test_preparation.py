"""Rows that cannot be prepared are named by file and line, or left out and listed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from transformers import PreTrainedTokenizerBase

from ontogeny.data.collation import collate_tokens
from ontogeny.data.pipeline import PreparedSource, SourceReader, prepare_source
from ontogeny.data.preparation import Chunk, Prepared, map_chunks
from ontogeny.data.splitting import is_held_out
from ontogeny.errors import DataError, RowError
from ontogeny.objective import Batch, Example, Loss, Objective, Row
from ontogeny.options import Data, Validation
from ontogeny.store import Store
from ontogeny.testing import byte_tokenizer


class Lower(Objective):
    """Refuses capital letters."""

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        for index, row in enumerate(rows):
            if not str(row["text"]).islower():
                raise RowError(index, "a capital letter")
            yield {"input_ids": np.frombuffer(str(row["text"]).encode(), np.uint8)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        raise NotImplementedError


def prepare(
    folder: Path,
    texts: Sequence[str],
    *,
    on_error: str = "skip",
    share: float = 0.0,
    workers: int = 0,
) -> PreparedSource:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    validation = Validation(share=share)
    data = Data(path=str(path), on_error=on_error, validation=validation, workers=workers)
    reader = SourceReader("data", str(path), data, Lower.columns)
    return prepare_source(reader, Lower(), None, byte_tokenizer(), "", Store(folder / "home"), None)


def read(source: PreparedSource) -> list[str]:
    return [bytes(example["input_ids"].tolist()).decode() for example in source.examples]


def test_the_first_row_that_cannot_be_prepared_is_named_by_file_and_line(tmp_path: Path) -> None:
    reason = r"rows.jsonl:3: a capital letter; mend the row or set data.on_error=skip"
    with pytest.raises(DataError, match=reason):
        prepare(tmp_path, ["one", "two", "Three", "Four"], on_error="error")


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_cannot_be_prepared_are_left_out_and_all_others_kept(
    tmp_path: Path, workers: int
) -> None:
    texts = ["One", "two", "Three", "Four", "five", "six", "Seven"]
    source = prepare(tmp_path, texts, workers=workers)
    assert read(source) == ["two", "five", "six"]
    lines = (source.folder / "rejected.jsonl").read_text().splitlines()
    places = [f"{tmp_path / 'rows.jsonl'}:{line}" for line in (1, 3, 4, 7)]
    assert [json.loads(line)["where"] for line in lines] == places
    assert source.facts == {"rows": 3, "held_out": 0, "rejected": 4, "empty": 0}


def test_a_source_of_bad_rows_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rows to train on but 2 bad ones, first .*:1: a cap"):
        prepare(tmp_path, ["One", "Two"])


def test_held_out_rows_must_be_good_too(tmp_path: Path) -> None:
    texts = [f"{'Bad' if number % 2 else 'good'} {number}" for number in range(60)]
    source = prepare(tmp_path, texts, share=0.3)
    good = [{"text": text} for text in texts[::2]]
    kept = [json.loads(line) for line in source.held_out.read_text().splitlines()]
    assert kept == [row for row in good if is_held_out(row, 0.3)]
    assert source.facts["rows"] == 30 - len(kept) == len(source.examples)
    assert source.facts["rejected"] == 30


def test_worker_processes_keep_the_order() -> None:
    def chunks() -> list[Chunk]:
        return [Chunk(held_out=bool(number % 3)) for number in range(7)]

    here = list(map_chunks(passed, iter(chunks()), workers=0))
    assert here == list(map_chunks(passed, iter(chunks()), workers=1))


def passed(chunk: Chunk) -> Prepared:
    return Prepared(chunk.held_out)


def test_a_row_error_survives_being_sent_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RowError(3, "no answer")))
    assert (error.index, error.reason, str(error)) == (3, "no answer", "row 3: no answer")
