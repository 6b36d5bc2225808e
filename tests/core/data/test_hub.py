from __future__ import annotations

import time
from typing import TYPE_CHECKING

import datasets
import pytest

from ontogeny.data.hub import is_hub_name
from ontogeny.data.reading import read_rows
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("path", ["imdb", "org/name", "org-1/name.v2"])
def test_one_or_two_plain_words_are_a_hub_name(path: str) -> None:
    assert is_hub_name(path)


@pytest.mark.parametrize(
    "path", ["a.txt", "data/a.jsonl.gz", "a/b/c", "./imdb", "/imdb", "a*", "", "..", "pkg://a/b"]
)
def test_anything_else_is_none(path: str) -> None:
    assert not is_hub_name(path)


def test_what_exists_here_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert not is_hub_name("data")
    assert not is_hub_name("data/misspelt")


def test_a_hub_dataset_gives_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.Dataset.from_list([{"body": "a"}, {"body": "b"}])
    asked: list[tuple[str, str]] = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return data

    monkeypatch.setattr("datasets.load_dataset", load)
    records = list(read_rows("org/name", columns={"text": "body"}, required=[("text",)]))
    assert asked == [("org/name", "train")]
    assert [record.row for record in records] == [{"text": "a"}, {"text": "b"}]
    assert records[1].where == "org/name:2"


def test_a_name_that_nobody_knows_is_one_line_at_once(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        list(read_rows("corpsu", columns={}, required=[("text",)]))
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert message.startswith(
        "'corpsu' is neither a file, a glob, a folder nor a reachable Hub dataset"
        " (did you mean 'corpus'?)"
    )
    assert "\n" not in message
