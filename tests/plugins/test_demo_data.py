"""The text that ships with the package keeps what its LICENSES.md promises."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from importlib.resources import files
from pathlib import Path
from statistics import mean

import pytest

Row = dict[str, str]

FOLDER = Path(str(files("ontogeny_plugins.demo")))
SHARED = {"id", "split"}
COLUMNS = {
    "general": {"text", "source", "split"},
    "domain": {"text"} | SHARED,
    "domain_classification": {"text", "label"} | SHARED,
    "domain_instructions": {"prompt", "completion"} | SHARED,
    "domain_preferences": {"prompt", "chosen", "rejected"} | SHARED,
}
SPLITS = {"": "train", "_test": "test"}
NAMES = [f"{table}{suffix}" for table in COLUMNS for suffix in SPLITS]
DOMAIN = [table for table in COLUMNS if table != "general"]

every_file = pytest.mark.parametrize("name", NAMES)
every_preference_file = pytest.mark.parametrize(
    "name", [name for name in NAMES if "preferences" in name]
)


def raw_text(name: str) -> str:
    return gzip.decompress((FOLDER / f"data/{name}.jsonl.gz").read_bytes()).decode()


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in raw_text(name).splitlines()]


def words_of(entry: Row) -> set[str]:
    return set(entry["text"].split(": ", 1)[0].lower().split(", "))


def eight_grams(name: str) -> list[tuple[str, ...]]:
    texts = (re.findall(r"\w+", row["text"].lower()) for row in rows_of(name))
    return [tuple(words[at : at + 8]) for words in texts for at in range(len(words) - 7)]


@every_file
def test_every_row_has_the_promised_columns_as_text_that_is_not_empty(name: str) -> None:
    for row in rows_of(name):
        assert row.keys() == COLUMNS[name.removesuffix("_test")]
        assert all(isinstance(value, str) and value.strip() for value in row.values())


@every_file
def test_every_row_names_the_split_of_its_file(name: str) -> None:
    expected = SPLITS["_test" if name.endswith("_test") else ""]
    assert {row["split"] for row in rows_of(name)} == {expected}


@every_file
def test_no_row_stands_twice_in_a_file(name: str) -> None:
    rows = [tuple(row.values()) for row in rows_of(name)]
    assert len(set(rows)) == len(rows)


@every_file
def test_text_is_composed_unicode(name: str) -> None:
    assert unicodedata.is_normalized("NFC", raw_text(name))


def test_no_id_of_any_test_file_stands_in_any_training_file() -> None:
    train = {row["id"] for table in DOMAIN for row in rows_of(table)}
    test = {row["id"] for table in DOMAIN for row in rows_of(f"{table}_test")}
    assert not train & test
    assert len(test) / len(train | test) == pytest.approx(0.1, abs=0.02)


def test_no_word_of_a_held_out_term_heads_a_training_row() -> None:
    train = set().union(*(words_of(row) for row in rows_of("domain")))
    test = set().union(*(words_of(row) for row in rows_of("domain_test")))
    assert not train & test


def test_no_sentence_about_a_held_out_term_is_a_rejected_answer_in_training() -> None:
    held_out = {row["text"] for row in rows_of("domain_classification_test")}
    rejected = {row["rejected"].split(": ", 1)[1][:-1] for row in rows_of("domain_preferences")}
    assert not held_out & rejected


@pytest.mark.parametrize("table", DOMAIN)
@pytest.mark.parametrize("suffix", SPLITS)
def test_every_term_of_a_later_stage_stands_in_the_domain_text(table: str, suffix: str) -> None:
    known = {row["id"] for row in rows_of(f"domain{suffix}")}
    assert {row["id"] for row in rows_of(f"{table}{suffix}")} <= known


def test_general_test_text_is_new_to_the_training_text() -> None:
    known, grams = set(eight_grams("general")), eight_grams("general_test")
    assert sum(gram in known for gram in grams) / len(grams) < 0.001


def test_labels_of_the_test_file_are_known_from_training() -> None:
    train = {row["label"] for row in rows_of("domain_classification")}
    test = {row["label"] for row in rows_of("domain_classification_test")}
    assert test <= train
    assert len(train) == 7


@every_preference_file
def test_chosen_and_rejected_differ(name: str) -> None:
    assert all(row["chosen"] != row["rejected"] for row in rows_of(name))


@every_preference_file
def test_length_does_not_tell_chosen_from_rejected(name: str) -> None:
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in rows_of(name)]
    chosen, rejected = zip(*lengths, strict=True)
    assert mean(chosen) == pytest.approx(mean(rejected), rel=0.05)
    longer = sum(left > right for left, right in lengths)
    shorter = sum(left < right for left, right in lengths)
    assert longer == pytest.approx(shorter, rel=0.05)


@every_preference_file
def test_every_gloss_is_chosen_as_often_as_rejected(name: str) -> None:
    rows = rows_of(name)
    chosen, rejected = (
        sorted(row[column].split(": ", 1)[1] for row in rows) for column in ("chosen", "rejected")
    )
    assert chosen == rejected


@every_file
def test_the_licence_page_states_rows_and_sizes(name: str) -> None:
    packed = (FOLDER / f"data/{name}.jsonl.gz").read_bytes()
    rows, raw = len(rows_of(name)), len(raw_text(name).encode())
    page = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}.jsonl.gz` "))
    assert line.endswith(f" | {rows:,} | {raw:,} | {len(packed):,} |")


def test_the_demo_data_stays_small() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.suffix in {".gz", ".md"}]
    assert sum(sizes) <= 1_200_000
