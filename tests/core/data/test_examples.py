"""Examples on disk: what goes in comes out, unless it could not be read back later."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ontogeny.data.examples import BUFFERED_VALUES, Examples, ExampleWriter
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ontogeny.objective import Example


def tokens(*ids: int) -> Example:
    return {"input_ids": np.array(ids, np.int64)}


def write(folder: Path, examples: Iterable[Example]) -> Examples:
    with ExampleWriter(folder) as writer:
        for example in examples:
            writer.add(example)
    return Examples(folder)


@pytest.fixture
def pairs(tmp_path: Path) -> Examples:
    """Two examples with per-token columns, a scalar, and columns of other lengths."""
    first = {
        "input_ids": np.array([5, 6, 7, 8]),
        "labels": np.array([6, 7, 8, -100]),
        "score": np.array(0.5),
        "tags": np.array([1, 2, 3, 4]),  # as long as input_ids, but only here
    }
    second = {
        "input_ids": np.array([9, 10, 11]),
        "labels": np.array([10, 11, -100]),
        "score": np.array(-2.0),
        "tags": np.array([], np.int64),
    }
    return write(tmp_path, [first, second])


def test_columns_come_back_as_they_were_written(pairs: Examples) -> None:
    assert len(pairs) == 2
    assert list(pairs[0]) == ["input_ids", "labels", "score", "tags"]
    assert pairs[0]["labels"].tolist() == [6, 7, 8, -100]
    assert pairs[1]["input_ids"].tolist() == [9, 10, 11]
    assert pairs[1]["tags"].tolist() == []


def test_scalars_come_back_without_dimensions(pairs: Examples) -> None:
    assert [example["score"].shape for example in pairs] == [(), ()]
    assert [float(example["score"]) for example in pairs] == [0.5, -2.0]


def test_integers_are_int32_and_floats_float32(pairs: Examples) -> None:
    assert pairs[0]["input_ids"].dtype == np.int32
    assert pairs[0]["score"].dtype == np.float32


def test_reading_gives_read_only_views(pairs: Examples) -> None:
    assert np.shares_memory(pairs[0]["input_ids"], pairs[0]["input_ids"])
    assert not pairs[0]["input_ids"].flags.writeable


def test_examples_are_a_sequence(pairs: Examples) -> None:
    assert len(list(pairs)) == 2
    assert pairs[-1]["input_ids"].tolist() == [9, 10, 11]
    assert [example["input_ids"].size for example in pairs[::-1]] == [3, 4]
    with pytest.raises(IndexError):
        pairs[2]


def test_lengths_are_those_of_the_column(pairs: Examples) -> None:
    assert pairs.lengths().tolist() == [4, 3]
    assert pairs.lengths("tags").tolist() == [4, 0]
    assert pairs.lengths().dtype == np.int64


def test_lengths_of_an_unknown_column_name_the_known_ones(pairs: Examples) -> None:
    with pytest.raises(DataError, match="no column tokens; expected one of input_ids, labels"):
        pairs.lengths("tokens")


def test_a_piece_cuts_the_per_token_columns_only(pairs: Examples) -> None:
    piece = pairs.piece((0, 1, 3))
    assert piece["input_ids"].tolist() == [6, 7]
    assert piece["labels"].tolist() == [7, 8]
    assert float(piece["score"]) == 0.5


def test_a_column_that_is_as_long_as_the_tokens_by_chance_is_not_cut(pairs: Examples) -> None:
    assert pairs.piece((0, 1, 3))["tags"].tolist() == [1, 2, 3, 4]


def test_pickling_carries_the_folder_and_not_the_data(tmp_path: Path) -> None:
    examples = write(tmp_path, [tokens(*range(100_000))])
    pickled = pickle.dumps(examples)
    assert len(pickled) < 1000
    assert pickle.loads(pickled)[0]["input_ids"].tolist() == list(range(100_000))


def test_a_late_large_integer_widens_the_whole_column(tmp_path: Path) -> None:
    many = np.arange(BUFFERED_VALUES + 1)  # more than one block, so a part is already on disk
    examples = write(tmp_path, [{"input_ids": many}, tokens(2**40, -(2**40)), tokens(3)])
    assert examples[0]["input_ids"].dtype == np.int64
    assert np.array_equal(examples[0]["input_ids"], many)
    assert examples[1]["input_ids"].tolist() == [2**40, -(2**40)]
    assert examples[2]["input_ids"].tolist() == [3]


def test_the_ends_of_int32_stay_int32(tmp_path: Path) -> None:
    ends = [-(2**31), 2**31 - 1]
    column = write(tmp_path, [tokens(*ends)])[0]["input_ids"]
    assert column.tolist() == ends
    assert column.dtype == np.int32


def test_booleans_are_integers(tmp_path: Path) -> None:
    examples = write(tmp_path, [{"input_ids": np.array([1]), "label": np.array(True)}])
    assert int(examples[0]["label"]) == 1


def test_empty_examples_are_skipped_and_counted(tmp_path: Path) -> None:
    examples = write(tmp_path, [tokens(), tokens(1), tokens(), tokens(2)])
    assert [example["input_ids"].tolist() for example in examples] == [[1], [2]]
    assert examples.skipped == 2


def test_an_empty_list_may_stand_in_an_integer_column(tmp_path: Path) -> None:
    first = {"input_ids": np.array([1]), "tags": np.array([7])}
    second = {"input_ids": np.array([2]), "tags": np.array([])}  # numpy makes this float64
    examples = write(tmp_path, [first, second])
    assert [example["tags"].tolist() for example in examples] == [[7], []]


def test_no_examples_at_all_can_be_read(tmp_path: Path) -> None:
    examples = write(tmp_path, [])
    assert (len(examples), examples.lengths().tolist()) == (0, [])


def test_the_caller_may_reuse_its_array(tmp_path: Path) -> None:
    buffer = np.array([1, 2])
    with ExampleWriter(tmp_path) as writer:
        writer.add({"input_ids": buffer})
        buffer[:] = 0
    assert Examples(tmp_path)[0]["input_ids"].tolist() == [1, 2]


def test_meta_comes_back(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path) as writer:
        writer.meta["truncated"] = 3
    assert Examples(tmp_path).meta == {"truncated": 3}


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids": np.array([1])}, "lacks or adds column score; .* input_ids, score"),
        ({"input_ids": np.array([[1]]), "score": 1.0}, r"column input_ids is int64 of shape \(1, "),
        ({"input_ids": np.array(["a"]), "score": 1.0}, "column input_ids is <U1"),
        ({"input_ids": np.array([1], np.uint64), "score": 1.0}, "column input_ids is uint64"),
        ({"input_ids": np.array([0.5]), "score": 1.0}, "input_ids is an array of type float in"),
        ({"input_ids": np.array([1]), "score": 1}, "column score is one integer in example 1 but"),
        ({"input_ids": np.array([1]), "score": [1.0]}, "score is an array of type float in"),
    ],
)
def test_a_refused_example_is_named_by_its_column_and_leaves_no_trace(
    tmp_path: Path, example: Example, message: str
) -> None:
    good = {"input_ids": np.array([1, 2]), "score": np.array(1.0)}
    with ExampleWriter(tmp_path) as writer:
        writer.add(good)
        with pytest.raises(DataError, match=message):
            writer.add(example)
        writer.add(good)
    assert [e["input_ids"].tolist() for e in Examples(tmp_path)] == [[1, 2], [1, 2]]


def test_a_failed_writer_leaves_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError), ExampleWriter(tmp_path) as writer:
        writer.add({"input_ids": np.array(["a"])})
    with pytest.raises(FileNotFoundError):
        Examples(tmp_path)


def test_many_short_examples_are_written_quickly(tmp_path: Path) -> None:
    example = {name: np.arange(20) for name in ("input_ids", "labels")}
    start = time.perf_counter()
    examples = write(tmp_path, (example for _ in range(100_000)))
    print(f"100,000 examples of 20 tokens written in {time.perf_counter() - start:.2f} s")  # noqa: T201
    assert examples.lengths().sum() == 2_000_000
    assert examples[99_999]["labels"].tolist() == list(range(20))


def test_the_data_modules_do_not_import_torch() -> None:
    modules = "ontogeny.data.examples, ontogeny.data.packing, ontogeny.data.mixing"
    command = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
