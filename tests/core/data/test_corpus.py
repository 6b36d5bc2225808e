"""A corpus: the rows of a stage before anything is tokenised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ontogeny.data.corpus import Corpus
from ontogeny.options import Data, Source, Validation
from ontogeny.store import Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"body": f"row {number}"}) + "\n" for number in range(200)))
    return path


def corpus(data: Data, folder: Path) -> Corpus:
    return Corpus(data, [("text",)], Store(folder / "store"), lambda _: None)


def test_rows_to_train_on_and_rows_held_out_are_all_rows(file: Path, tmp_path: Path) -> None:
    data = Data(path=str(file), text_column="body", validation=Validation(share=0.2))
    made = corpus(data, tmp_path)
    assert made.names == ["data"]
    trained, held_out = (
        [str(row["text"]) for row in rows("data")] for rows in (made.rows, made.held_out)
    )
    assert 10 < len(held_out) < 80
    assert sorted([*trained, *held_out]) == sorted(f"row {number}" for number in range(200))


@pytest.mark.parametrize("own", [True, False])
def test_rows_are_held_out_in_another_file(own: bool, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"body": "apart"}\n')
    source = Source(str(file), validation=str(other) if own else None)
    validation = Validation() if own else Validation(path=str(other))
    made = corpus(
        Data(sources={"books": source}, text_column="body", validation=validation), tmp_path
    )
    assert [row["text"] for row in made.held_out("books")] == ["apart"]
    assert len(list(made.rows("books"))) == 200


def test_the_digest_follows_the_content_and_how_it_is_read(file: Path, tmp_path: Path) -> None:
    data = Data(path=str(file), text_column="body")
    first = corpus(data, tmp_path).digest("data")
    assert corpus(data, tmp_path).digest("data") == first
    data.validation.share = 0.3
    assert corpus(data, tmp_path).digest("data") != first
    data.validation.share = 0.05
    file.write_text('{"body": "another"}\n{"body": "text"}\n')
    assert corpus(data, tmp_path).digest("data") != first


def test_what_is_made_of_the_rows_is_made_once(file: Path, tmp_path: Path) -> None:
    made = corpus(Data(path=str(file)), tmp_path)
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "words.txt").write_text("row")

    folders = [made.keep("words", {"of": "data"}, build) for _ in range(2)]
    assert folders[0] == folders[1]
    assert (folders[0] / "words.txt").read_text() == "row"
    assert len(built) == 1
