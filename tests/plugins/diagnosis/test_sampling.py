"""Samples depend on the content of a source alone, and what is measured is never counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ontogeny import DataError
from ontogeny.data.corpus import Corpus
from ontogeny.options import Data, Validation
from ontogeny.store import Store
from ontogeny_plugins.diagnosis.sampling import (
    TEXT,
    Sample,
    data_of,
    draw_sample,
    text_of,
    within,
)


def draw(file: Path, share: float = 0.05, **limits: int) -> Sample:
    data = Data(validation=Validation(share=share))
    sizes = {"documents": 1000, "size": 10**6, **limits}
    return draw_sample("domain", str(file), data, announce=print, **sizes)


def write(folder: Path, texts: list[str], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def numbered(count: int) -> list[str]:
    return [f"this is row number {number}" for number in range(count)]


def test_the_order_of_a_file_changes_nothing(tmp_path: Path) -> None:
    texts = numbered(300)
    forth = draw(write(tmp_path, texts), documents=9, size=500)
    back = draw(write(tmp_path, texts[::-1]), documents=9, size=500)
    assert (forth.measured, forth.counted) == (back.measured, back.counted)


def test_what_is_measured_is_not_counted_and_nothing_is_lost(tmp_path: Path) -> None:
    texts = numbered(300)
    sample = draw(write(tmp_path, texts), share=0.2)
    assert sorted([*sample.measured, *sample.counted]) == sorted(texts)


def test_a_small_source_holds_out_more_so_that_thirty_texts_can_be_expected(tmp_path: Path) -> None:
    assert draw(write(tmp_path, numbered(200))).share == pytest.approx(0.15)
    assert draw(write(tmp_path, numbered(40))).share == 0.5
    assert draw(write(tmp_path, numbered(5000))).share == 0.05


def test_limits_are_kept(tmp_path: Path) -> None:
    sample = draw(write(tmp_path, numbered(400)), documents=7, size=1000)
    assert len(sample.measured) == 7
    assert 1000 <= sample.counted_bytes() < 1000 + 30


def test_bytes_are_counted_and_not_characters(tmp_path: Path) -> None:
    texts = [f"猫犬 {number}" for number in range(100)]
    sample = draw(write(tmp_path, texts), size=10**6)
    assert sample.counted_bytes() == sum(len(text.encode()) for text in sample.counted)
    assert within(["猫", "犬", "鳥"], 4) == ["猫", "犬"]


def test_a_source_with_too_few_rows_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.domain.path: .* has 2 rows, too few to measure"):
        draw(write(tmp_path, numbered(2)))


def test_rows_that_are_bad_are_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, numbered(100))
    file.write_text(file.read_text() + "no json\n")
    lines: list[str] = []
    data = Data(on_error="skip")
    draw_sample("domain", str(file), data, documents=9, size=99, announce=lines.append)
    assert lines == [f"{file}: 1 bad rows left out, first {file}:101"]


def test_a_source_of_which_every_row_is_bad_has_too_few(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(DataError, match=r"bad.jsonl"):
        draw_sample(
            "domain", str(file), Data(on_error="skip"), documents=9, size=99, announce=print
        )


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "all of it", "label": 3}, "all of it"),
        ({"prompt": "why?", "completion": "so"}, "why?\nso"),
        ({"prompt": "why?", "chosen": "so", "rejected": "no"}, "why?\nso"),
        ({"chosen": "so", "rejected": "no"}, "so"),
        ({"prompt": "why?"}, "why?"),
        ({"tokens": ["the", "mill"], "tags": [0, 1]}, "the mill"),
        ({"completion": "so", "label": True}, "so"),
        ({"question": "who?", "context": "I am.", "answers": {"text": ["I"]}}, "I am.\nwho?"),
        ({"question": "who?", "choices": ["I", "you"], "label": 0}, "who?\nI you"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "a\nb",
        ),
    ],
)
def test_the_text_of_a_task_is_what_its_rows_say(row: dict[str, object], text: str) -> None:
    assert text_of(row) == text


def test_a_training_on_the_samples_never_sees_what_was_measured(tmp_path: Path) -> None:
    few, many = (write(tmp_path, numbered(count), f"{count}.jsonl") for count in (60, 3000))
    samples = [draw(few), draw(many)]
    named = [
        Sample(name, each.path, each.measured, each.counted, each.rows, each.share, each.columns)
        for name, each in zip(("domain", "general"), samples, strict=True)
    ]
    data = data_of(named, Data(), {"domain": 0.9, "general": 0.1})
    corpus = Corpus(data, TEXT, Store(tmp_path / "store"), print)
    for sample in named:
        trained = {row["text"] for row in corpus.rows(sample.name)}
        assert trained
        assert trained.isdisjoint(sample.measured)
    assert [source.weight for source in data.sources.values()] == [0.9, 0.1]
