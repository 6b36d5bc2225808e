"""Which rows an evaluator measures, and what it says when there are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ontogeny import DataError
from ontogeny.evaluated_rows import EvaluatedRows, drawn, rows_to_evaluate, shipped_rows
from ontogeny.evaluator import EvaluationData, Metric, Metrics
from ontogeny.options import Data

COLUMNS = (("prompt", "completion"), ("messages",))
KEY = "evaluator.x"


def data(**sources: int) -> EvaluationData:
    rows = {
        name: [{"prompt": f"{name} {row}", "completion": "c"} for row in range(count)]
        for name, count in sources.items()
    }
    return EvaluationData(rows, Data())


def test_rows_come_from_every_source_with_its_name() -> None:
    found = rows_to_evaluate(data(a=2, b=1), None, COLUMNS, None, KEY)
    assert [row["prompt"] for row in found.rows] == ["a 0", "a 1", "b 0"]
    assert found.sources == ["a", "a", "b"]


def test_a_limit_takes_the_same_random_rows_of_each_source_in_their_order() -> None:
    found = rows_to_evaluate(data(a=100, b=3), None, COLUMNS, 5, KEY)
    assert found.sources == ["a"] * 5 + ["b"] * 3
    numbers = [int(str(row["prompt"]).split()[1]) for row in found.rows[:5]]
    assert numbers == sorted(set(numbers))
    assert numbers != list(range(5))
    again = rows_to_evaluate(data(a=100, b=3), None, COLUMNS, 5, KEY)
    assert again.rows == found.rows
    assert drawn("a", [{"n": n} for n in range(9)], 9) == [{"n": n} for n in range(9)]


def test_rows_of_its_own_are_read_with_the_names_that_the_user_gives_to_columns(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"q": "?", "a": "!"}) + "\n")
    options = Data(prompt_column="q", completion_column="a")
    found = rows_to_evaluate(EvaluationData({}, options), str(file), COLUMNS, None, KEY)
    assert found.rows == [{"prompt": "?", "completion": "!"}]


def test_rows_that_ship_along_have_their_own_columns() -> None:
    path = "pkg://ontogeny_plugins.demo/data/domain_instructions_test.jsonl.gz"
    assert shipped_rows(path, COLUMNS)[0]["prompt"]


def test_no_rows_are_an_error_with_the_ways_out() -> None:
    with pytest.raises(DataError, match=r"set evaluator.x.path to rows of its own, or data.path"):
        rows_to_evaluate(data(a=0), None, COLUMNS, None, KEY)


def test_a_row_without_the_columns_is_an_error_that_names_the_source() -> None:
    texts = EvaluationData({"web": [{"text": "only text"}]}, Data())
    words = r"evaluator.x: a row to evaluate on, of source web: no column 'prompt'.* or set"
    with pytest.raises(DataError, match=words):
        rows_to_evaluate(texts, None, COLUMNS, None, KEY)


def test_metrics_are_of_all_rows_and_of_each_source_if_there_are_several() -> None:
    def measure(indices: np.ndarray) -> Metrics:
        return {"sum": Metric(float(indices.sum()), "1")}

    rows: list[object] = [{}, {}, {}, {}]
    several = EvaluatedRows(rows, ["b", "a", "b", "a"]).metrics(measure)
    assert {name: metric.value for name, metric in several.items()} == {
        "sum": 6,
        "sum/b": 2,
        "sum/a": 4,
    }
    assert list(EvaluatedRows(rows, ["a"] * 4).metrics(measure)) == ["sum"]
